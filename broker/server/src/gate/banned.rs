//! Who is kept out whatever plugins say.

use mqgate_identity::reason::Reason;

use super::judge::No;
use super::{Accepted, Gate};
use crate::bans::Subject;
use crate::clock;

impl Gate {
    /// Refuses who is banned, as far as it is known who it is.
    pub(super) fn unbanned(
        &self,
        accepted: &Accepted,
        client_id: &str,
        device_id: Option<&str>,
    ) -> Result<(), No> {
        let Some(bans) = &self.bans else { return Ok(()) };
        let subject = Subject {
            client_id: Some(client_id).filter(|id| !id.is_empty()),
            device_id,
            certificate: accepted
                .certificate
                .as_ref()
                .map(|certificate| certificate.leaf.certificate_fingerprint),
            address: Some(accepted.peer.address),
        };
        let Some(ban) = bans.find(&subject, clock::now()) else { return Ok(()) };
        let mut no = No::because(Reason::Banned).detail(format!("ban {} of {}", ban.id, ban.kind.as_str()));
        no.device_id = device_id.map(str::to_owned);
        Err(no)
    }
}
