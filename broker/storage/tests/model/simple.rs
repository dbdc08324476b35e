//! The simple model: what is known of each certificate, and what each operation should come to. Written from the
//! tables in `docs/registry.md`, without the rules' code.

use std::collections::BTreeMap;

use mqgate_identity::certificate::CertificateFacts;
use mqgate_identity::registry::rules::{Force, OnTombstone};
use mqgate_identity::registry::{DeviceState, RegistrationSource, RevocationReason};
use mqgate_identity::time::UnixMillis;
use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SerialNumber, date_time_ymd};

pub const CERTIFICATES: usize = 20;
pub const KEYS: usize = 14;
pub const DEVICES: usize = 5;
/// 2023-11-14.
pub const START: UnixMillis = UnixMillis(1_700_000_000_000);
pub const HOUR: u64 = 60 * 60 * 1000;
pub const PENDING_TTL: u64 = 20 * HOUR;
pub const OVERLAP: u64 = 2 * HOUR;

pub struct Pki {
    pub cas: Vec<CertificateFacts>,
    /// Facts, number of the key, of the serial number and of the CA.
    pub certificates: Vec<(CertificateFacts, usize, usize, usize)>,
}

pub fn pki() -> Pki {
    let named = |name: String| {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let issuers: Vec<_> = (0..2)
        .map(|number| {
            let mut params = named(format!("ca-{number}"));
            params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
        })
        .collect();
    let keys: Vec<_> = (0..KEYS).map(|_| KeyPair::generate().unwrap()).collect();
    let certificates = (0..CERTIFICATES).map(|number| {
        // The last two have a serial number that was given before.
        let (key, serial, ca) = (number % KEYS, number % (CERTIFICATES - 2), number % 2);
        let mut params = named(format!("device-{}", number % DEVICES));
        params.serial_number = Some(SerialNumber::from(serial as u64 + 1));
        params.not_before = date_time_ymd(2023, 1, 1);
        params.not_after =
            if number % 4 == 0 { date_time_ymd(2023, 11, 16) } else { date_time_ymd(2026, 1, 1) };
        let der = params.signed_by(&keys[key], &issuers[ca]).unwrap().der().to_vec();
        (CertificateFacts::parse(&der).unwrap(), key, serial, ca)
    });
    let cas = issuers.iter().map(|issuer| CertificateFacts::parse(issuer.der()).unwrap()).collect();
    Pki { certificates: certificates.collect(), cas }
}

/// What is known of a certificate that has a record.
#[derive(Debug, Clone)]
pub struct Known {
    pub state: DeviceState,
    pub device: usize,
    pub revision: u64,
    pub held: bool,
    pub rejected: bool,
    pub revoked: bool,
    pub compromised: bool,
    pub quarantined: bool,
    pub pending_until: u64,
    pub superseded_until: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ca {
    Active,
    Inactive,
    Revoked,
}

/// All of it.
pub struct Model {
    pub certificates: BTreeMap<usize, Known>,
    pub cas: [Ca; 2],
    pub now: u64,
}

/// What an operation should come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    Changed,
    Unchanged,
    Refused,
}

#[derive(Debug, Clone, Copy)]
pub enum Op {
    Register { state: DeviceState, source: RegistrationSource, on_tombstone: OnTombstone, device: usize },
    Activate,
    Deactivate,
    Reject,
    Revoke(RevocationReason),
    Delete(Force),
    Lapse,
    Purge,
    Supersede(usize),
    EndOverlap,
    Reinstate,
    Quarantine,
    Release,
}

impl Model {
    pub fn is_expired(&self, pki: &Pki, number: usize) -> bool {
        (self.now / 1000) as i64 > pki.certificates[number].0.not_after.0
    }

    pub fn others(&self, number: usize) -> impl Iterator<Item = (usize, &Known)> {
        self.certificates.iter().filter(move |(other, _)| **other != number).map(|(at, known)| (*at, known))
    }

    pub fn is_compromised(&self, pki: &Pki, number: usize) -> bool {
        let key = pki.certificates[number].1;
        self.others(number).any(|(other, known)| pki.certificates[other].1 == key && known.compromised)
    }

    pub fn may_connect(&self, pki: &Pki, number: usize) -> bool {
        self.certificates.get(&number).is_some_and(|known| {
            known.state == DeviceState::Active
                && !known.quarantined
                && known.superseded_until.is_none_or(|until| self.now < until)
                && self.cas[pki.certificates[number].3] == Ca::Active
                && !self.is_expired(pki, number)
        })
    }

    pub fn apply(&mut self, pki: &Pki, number: usize, op: Op) -> Expected {
        use DeviceState::{Active, Inactive, PendingActivation, Revoked, Tombstone};
        use Expected::{Changed, Refused, Unchanged};
        let (_, _, serial, ca) = pki.certificates[number];
        let ca = self.cas[ca];
        let expired = self.is_expired(pki, number);
        let now = self.now;
        let serial_taken = self
            .others(number)
            .any(|(other, _)| pki.certificates[other].2 == serial && pki.certificates[other].3 == number % 2);
        let compromised = self.is_compromised(pki, number);
        let successor_is_good = match op {
            Op::Supersede(by) => {
                let by_known = self.certificates.get(&by);
                by != number
                    && by_known.is_some_and(|by| {
                        by.state == Active
                            && self.certificates.get(&number).is_some_and(|known| known.device == by.device)
                    })
                    // Each CA is a trust domain of its own.
                    && by % 2 == number % 2
            }
            _ => false,
        };
        if let Op::Register { state, source, on_tombstone, device } = op {
            let revision = match self.certificates.get(&number) {
                None => 1,
                Some(known) => match known.state {
                    Revoked => return Refused,
                    Tombstone if known.revoked || on_tombstone == OnTombstone::Refuse => return Refused,
                    Tombstone => known.revision + 1,
                    PendingActivation | Active | Inactive => {
                        return if known.device == device { Unchanged } else { Refused };
                    }
                },
            };
            let ca_is_fine = match source {
                RegistrationSource::Jit => ca == Ca::Active,
                _ => ca != Ca::Revoked,
            };
            if serial_taken || (compromised && state != Revoked) || expired || !ca_is_fine {
                return Refused;
            }
            let known = Known {
                state,
                device,
                revision,
                held: false,
                rejected: false,
                revoked: state == Revoked,
                compromised: false,
                quarantined: false,
                pending_until: if state == PendingActivation { now + PENDING_TTL } else { 0 },
                superseded_until: None,
            };
            self.certificates.insert(number, known);
            return Changed;
        }
        let Some(known) = self.certificates.get_mut(&number) else { return Refused };
        let may_activate = !expired && ca != Ca::Revoked && !compromised;
        let before = known.state;
        match (op, before) {
            (Op::Activate, Active) => return Unchanged,
            (Op::Activate, Inactive) if known.superseded_until.is_some() => return Refused,
            (Op::Activate, Inactive | PendingActivation) if may_activate => {
                (known.state, known.held) = (Active, false);
            }
            (Op::Deactivate, Inactive) => return Unchanged,
            (Op::Deactivate, Active) => known.state = Inactive,
            (Op::Reject, PendingActivation) => {
                (known.state, known.revoked, known.rejected) = (Revoked, true, true);
            }
            (Op::Reject, Revoked) if known.rejected => return Unchanged,
            (Op::Revoke(RevocationReason::CertificateHold), Revoked) => return Unchanged,
            (Op::Revoke(RevocationReason::CertificateHold), Inactive) if known.held => return Unchanged,
            (Op::Revoke(RevocationReason::CertificateHold), Active | Inactive) => {
                (known.state, known.held) = (Inactive, true);
            }
            (Op::Revoke(RevocationReason::RemoveFromCrl), Inactive)
                if known.held && known.superseded_until.is_none() && may_activate =>
            {
                (known.state, known.held) = (Active, false);
            }
            (Op::Revoke(RevocationReason::RemoveFromCrl | RevocationReason::CertificateHold), _) => {
                return Refused;
            }
            (Op::Revoke(reason), Revoked) => match reason.is_compromise() && !known.compromised {
                true => (known.compromised, known.rejected) = (true, false),
                false => return Unchanged,
            },
            (Op::Revoke(reason), PendingActivation | Active | Inactive) => {
                (known.state, known.revoked) = (Revoked, true);
                (known.held, known.compromised) = (false, reason.is_compromise());
            }
            (Op::Delete(_), Tombstone) => return Unchanged,
            (Op::Delete(Force::No), Active) => return Refused,
            (Op::Delete(_), _) => {
                known.state = Tombstone;
                (known.held, known.quarantined, known.superseded_until) = (false, false, None);
            }
            (Op::Lapse, PendingActivation) if known.pending_until <= now => {
                self.certificates.remove(&number);
                return Changed;
            }
            (Op::Purge, Tombstone) if !known.revoked || expired => {
                self.certificates.remove(&number);
                return Changed;
            }
            (Op::Supersede(_), Active) if successor_is_good && known.superseded_until.is_none() => {
                known.superseded_until = Some(now + OVERLAP);
            }
            (Op::Supersede(_), Active | Inactive) if successor_is_good => return Unchanged,
            (Op::EndOverlap, Active) if known.superseded_until.is_some_and(|until| until <= now) => {
                known.state = Inactive;
            }
            (Op::EndOverlap, Active | Inactive) if known.superseded_until.is_some() => return Unchanged,
            (Op::Reinstate, Active | Inactive)
                if known.superseded_until.is_some()
                    && !expired
                    && ca != Ca::Revoked
                    && (before == Active || known.held || !compromised) =>
            {
                known.superseded_until = None;
                if !known.held {
                    known.state = Active;
                }
            }
            (Op::Quarantine, Active | PendingActivation) if known.quarantined => return Unchanged,
            (Op::Quarantine, Active | PendingActivation) => known.quarantined = true,
            (Op::Release, Active | Inactive | PendingActivation) if known.quarantined => {
                known.quarantined = false;
            }
            _ => return Refused,
        }
        known.revision += 1;
        Changed
    }
}
