//! Every code that the admin API answers a problem with: one closed list, each with its status and what to do next.
//! `docs/api.md` is made from it.

use axum::http::StatusCode;

macro_rules! codes {
    ($($variant:ident = $status:literal $word:literal: $next:literal;)+) => {
        /// Why a request was refused or failed. The word is stable: programs may go by it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $($variant,)+
        }

        impl Code {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }

            const fn number(self) -> u16 {
                match self {
                    $(Self::$variant => $status,)+
                }
            }

            /// What to do about it, for the reference.
            pub const fn next_step(self) -> &'static str {
                match self {
                    $(Self::$variant => $next,)+
                }
            }
        }
    };
}

codes! {
    // Of every route.
    TokenMissing = 401 "token_missing": "send `Authorization: Bearer …` with the admin token or one of `mqgate admin token create`";
    TokenWrong = 401 "token_wrong": "the token is unknown, revoked, or over; make another with `mqgate admin token create`";
    ScopeMissing = 403 "scope_missing": "use a token whose role or scopes include the one that `scope` names";
    HostNotAllowed = 403 "host_not_allowed": "use the address itself, or add the name to `admin.hosts`";
    NoSuchPath = 404 "no_such_path": "`GET /api/v1/openapi.json` lists every path";
    MethodNotAllowed = 405 "method_not_allowed": "the `Allow` header names the methods of this path";
    BadRequest = 400 "bad_request": "the request cannot be read; `detail` says what is wrong";
    BadPath = 400 "bad_path": "a part of the path is not what the route takes; `detail` names it";
    UnknownParameter = 400 "unknown_parameter": "remove the query parameter; `known` lists those of the route";
    BadParameter = 400 "bad_parameter": "correct the query parameter that `detail` names";
    BadCursor = 400 "bad_cursor": "begin the list without `after`, or give the `next` of an earlier page as it was";
    BadJson = 400 "bad_json": "the body is not JSON; `detail` says where";
    BadBody = 422 "bad_body": "the body is JSON, but not what the route takes; `detail` names the member";
    TooLarge = 413 "too_large": "send less at once; `admin.max_upload` bounds components";
    MediaType = 415 "media_type": "send `Content-Type: application/json`";
    BodyTimeout = 408 "body_timeout": "send the body within 30 seconds";
    BadHeader = 400 "bad_header": "correct the header that `detail` names";
    RevisionMismatch = 412 "revision_mismatch": "it was changed meanwhile: read it again, and send its `ETag` in `If-Match`";
    RevisionConflict = 409 "revision_conflict": "somebody changed it at the same moment: read it again and repeat";
    IdempotencyReused = 422 "idempotency_key_reused": "take a new `Idempotency-Key` for another request";
    IdempotencyRunning = 409 "idempotency_in_progress": "the first request with this key still runs: repeat later";
    Internal = 500 "internal": "a fault of the broker: its log says more";
    AuditUnavailable = 503 "audit_unavailable": "what cannot be written down is not done: free space for the audit log";
    RegistryUnavailable = 503 "registry_unavailable": "look at the broker's log and the disk of `node.data_dir`";
    StorageUnavailable = 503 "storage_unavailable": "look at the broker's log and the disk of `node.data_dir`";
    MetricsFailed = 500 "metrics_failed": "a fault of the broker: its log says more";

    // Registry: CAs and device certificates.
    NotFound = 404 "not_found": "list what there is: `mqgate ca list`, `mqgate cert list`, `mqgate server-cert list`, …";
    BadId = 400 "bad_id": "a certificate's id is its SHA-256, 64 hex digits";
    BadReason = 400 "bad_reason": "name one of the revocation reasons that `detail` lists";
    BadCertificate = 422 "bad_certificate": "send PEM text with one certificate first; `mqgate pki inspect FILE` shows what a file holds";
    CertificateRefused = 422 "certificate_refused": "no CA vouches for it; `reason` says why, `mqgate pki explain` shows each step";
    BadDeviceId = 422 "bad_device_id": "choose another device id; `detail` says what is wrong with it";
    BadState = 422 "bad_state": "a record cannot begin in this state";
    CertRevoked = 409 "cert_revoked": "revoked for good: issue and register another certificate";
    CertTombstoned = 409 "cert_tombstoned": "it was deleted: register it with `restore` (`--restore`)";
    CertRegistered = 409 "cert_registered": "it is registered already; `mqgate cert show` shows it";
    CertExpired = 409 "cert_expired": "its time is over: issue and register another certificate";
    CertPending = 409 "cert_pending": "it waits for approval: activate or reject it first";
    CertActive = 409 "cert_active": "deactivate it first, or use `force` (`--force`)";
    CertNotOnHold = 409 "cert_not_on_hold": "only a certificate on hold can be reinstated";
    DeviceExists = 409 "device_exists": "choose another device id";
    TooManyActive = 409 "too_many_active_certificates": "deactivate one of the device's certificates, or raise `rotation.max_active_per_device`";
    CaInactive = 409 "ca_inactive": "activate its CA first";
    CaRevoked = 409 "ca_revoked": "a revoked CA stays so: register its successor";
    CaConfigured = 409 "ca_configured": "the CA is part of the configuration: change it there and `mqgate reload`";
    CaInTransition = 409 "ca_in_transition": "`mqgate transition list` shows it, `mqgate transition end` ends it";
    SameCa = 409 "same_ca": "name another CA than the one to be replaced";
    NotACa = 422 "not_a_ca": "the certificate has no CA basic constraint: register the CA's, not a device's";
    BadCa = 422 "bad_ca": "the CA certificate is not usable; `detail` says why";
    BadName = 422 "bad_name": "use letters, digits, `-`, `_`, `.`";
    NameTaken = 409 "name_taken": "choose another name";
    TooManyCas = 409 "too_many_cas": "remove one, or raise `limits.ca_certs`";
    DeviceCertificatesExist = 409 "related_device_certificates_exist": "certificates are registered under it: delete them first, or say what becomes of them (`cascade`, `force`)";
    BadPattern = 422 "bad_pattern": "`ATTRIBUTE=GLOB` for subjects, `TYPE:GLOB` for alternative names";
    CaMissing = 409 "ca_missing": "register the CA first: `mqgate ca register`";
    CaPending = 409 "ca_pending": "prove that you hold its key: verify it with a registration code";
    CaRetiring = 409 "ca_retiring": "it was replaced: wait, or end its transition with `mqgate transition end`";
    CaExpired = 409 "ca_expired": "its time is over: register its successor";
    CaInUse = 409 "ca_in_use": "deactivate or revoke it first";
    CaNotPending = 409 "ca_not_pending": "it is verified already";
    CaNotReplaceable = 409 "ca_not_replaceable": "only an active or inactive CA can be replaced";
    CaNamespace = 409 "ca_namespace": "one CA has one namespace";
    CertNotPending = 409 "cert_not_pending": "it does not wait for approval: revoke it instead";
    CertStillPending = 409 "cert_still_pending": "it is forgotten when its waiting time is over";
    CertNotSuperseded = 409 "cert_not_superseded": "no other certificate has taken its place";
    CertNotSuccessor = 409 "cert_not_successor": "only an active certificate of the same device takes its place";
    CertNotQuarantined = 409 "cert_not_quarantined": "it is not in quarantine";
    CertNotInUse = 409 "cert_not_in_use": "only a certificate that is active or pending can be put into quarantine";
    CertNotTombstoned = 409 "cert_not_tombstoned": "it is not deleted: there is no tombstone";
    TombstoneKept = 409 "tombstone_kept": "it was revoked: its tombstone stays until it expires";
    DuplicateSerial = 409 "duplicate_serial": "the CA gave one number to two certificates: have it issue one with another";
    KeyCompromised = 409 "key_compromised": "make a new key for the device";
    AutoRegistrationOff = 409 "auto_registration_off": "register it by hand: `mqgate cert register`";
    ProvisionQuota = 409 "provision_quota": "raise the CA's `max_device_certs`, or delete some";
    SubjectNotAllowed = 409 "subject_not_allowed": "no subject pattern of the CA fits";
    SanNotAllowed = 409 "san_not_allowed": "no pattern of the CA fits an alternative name";
    LeafLifetime = 409 "leaf_lifetime": "issue a certificate with a shorter life";
    RegistrationCodeInvalid = 422 "registration_code_invalid": "make a code, and have the CA sign a certificate with it as its common name";
    RegistrationCodeExpired = 409 "registration_code_expired": "make a new code";
    RegistrationCodeUsed = 409 "registration_code_used": "a code is good for one CA: make a new one";
    TooManyRegistrationCodes = 409 "too_many_registration_codes": "delete some";
    VerificationSignatureInvalid = 422 "verification_signature_invalid": "the verification certificate has to be signed with the CA's own key";
    VerificationExpired = 422 "verification_expired": "have the CA sign a new verification certificate";
    PublicKeyMismatch = 422 "public_key_mismatch": "the verification certificate was made by another CA";

    CertSuperseded = 409 "cert_superseded": "a newer certificate took its place: `mqgate cert reinstate` lets both in";
    EmptyFilter = 400 "empty_filter": "give a filter, or say `all`";
    TooManyMatches = 409 "too_many_matches": "narrow the filter";
    BadImport = 422 "bad_import": "correct what `detail` names; `mqgate cert import --help` shows the formats";
    ImportCancelled = 409 "import_cancelled": "delete the import, and begin anew";
    NoSuchImport = 404 "no_such_import": "begin it: `mqgate cert import`";
    WhichListener = 400 "which_listener": "name one of the listeners that `detail` lists";
    BadProtocolLevel = 400 "bad_protocol_level": "4 is MQTT 3.1.1, 5 is MQTT 5.0";
    TooManyTopics = 400 "too_many_topics": "ask about fewer at once";

    // Posture checks.
    NoSuchFinding = 404 "no_such_finding": "`mqgate audit findings` shows those there are";
    BadSuppression = 422 "bad_suppression": "say why, and name an end that is still to come";
    TooManySuppressions = 409 "too_many_suppressions": "take some back: `mqgate audit findings --suppressed`";

    // The audit log.
    NoAuditLog = 409 "no_audit_log": "this broker keeps no audit log on disk";
    AuditUnreadable = 500 "audit_unreadable": "`mqgate audit verify` says what is wrong with the log";
    NotSignedYet = 409 "not_signed_yet": "wait for the next checkpoint: `audit.checkpoint_interval`";
    BadSubject = 422 "bad_subject": "write device:NAME, certificate:FINGERPRINT, client:ID or address:IP";
    NothingPersonal = 409 "nothing_personal": "name what is to be encrypted in `audit.personal.members`";

    // Server certificates, transitions, revocation lists.
    BundleInUse = 409 "bundle_in_use": "listeners serve it (`used_by`): take it out of their settings first";
    LastCertificate = 409 "last_certificate": "a listener would be left without a certificate (`used_by`)";
    BadTls = 422 "bad_tls": "chain and key do not make a working TLS; `detail` says why";
    LimitExceeded = 409 "limit_exceeded": "remove one, or raise the limit that `limit` names";
    TooManyTransitions = 409 "too_many_transitions": "end one with `mqgate transition end`";
    TransitionsUnavailable = 503 "transitions_unavailable": "the ledger cannot be written: look at the disk of `node.data_dir`";
    InThePast = 400 "in_the_past": "name a time that is still to come";
    Disk = 503 "disk": "look at the disk of `node.data_dir`";

    // Configuration and listeners.
    BadConfiguration = 422 "bad_configuration": "correct what `detail` names; `mqgate config check` shows all of it";
    Refused = 409 "refused": "`detail` says why";
    RolledBack = 409 "rolled_back": "nothing was changed; `detail` says what failed";
    Interrupted = 500 "interrupted": "restart the broker; its log says what was half done";
    PathNotAllowed = 403 "path_not_allowed": "have the folder in `admin.allow_paths`, or the broker keep the certificate";

    // Clients, sessions, messages.
    NotConnected = 404 "not_connected": "`mqgate clients list` shows who is connected";
    ClientAway = 409 "client_away": "wait until the client is connected, or configure an automatic subscription";
    NoSession = 404 "no_session": "`mqgate sessions list` shows the sessions there are";
    AmbiguousClientId = 409 "ambiguous_client_id": "several devices use this client id (`devices`): name one with `device_id` (`--device`)";
    NoSubscription = 404 "no_subscription": "`mqgate subscriptions list --client ID` shows those there are";
    NotPermitted = 403 "not_permitted": "the client's permit does not cover the filter: widen its grant first";
    TooManySubscriptions = 409 "too_many_subscriptions": "remove one, or raise `limits.max_subscriptions` or `limits.max_filter_bytes`";
    BadQuery = 400 "bad_query": "the parameters do not go together; `detail` says which";
    BadTopic = 400 "bad_topic": "a Topic Name has no wildcard, is not empty and holds no U+0000";
    BadFilter = 400 "bad_filter": "a Topic Filter has `+` and `#` as whole levels only";
    BadQos = 400 "bad_qos": "the QoS levels are 0, 1 and 2";
    BadText = 400 "bad_text": "at most 65,535 bytes, no U+0000";
    BadPayload = 400 "bad_payload": "give `payload` or `payload_base64`, not both";
    BadDelay = 400 "bad_delay": "`$delayed/SECONDS/TOPIC`, within `delayed.max_delay`, with `delayed.enable`";
    ReservedTopic = 403 "reserved_topic": "below `$SYS` and `$events` only the broker publishes";
    TooManyLevels = 400 "too_many_levels": "shorten the topic, or raise `limits.max_topic_levels`";
    TooManyDelayed = 409 "too_many_delayed": "take some back with `mqgate message cancel`, or raise `delayed.max_messages`";
    NoSuchMessage = 404 "no_such_message": "`mqgate message delayed` shows those that wait";
    NoRetainedMessage = 404 "no_retained_message": "`mqgate retained list` shows those there are";

    // Bans, traces, bridges.
    BansOff = 404 "bans_off": "this broker keeps no list of bans";
    NoSuchBan = 404 "no_such_ban": "`mqgate bans list` shows those there are";
    BadBan = 422 "bad_ban": "`detail` says what is missing";
    BadAddress = 422 "bad_address": "an address or a network, for example 192.0.2.7 or 192.0.2.0/24";
    BadFingerprint = 422 "bad_fingerprint": "a certificate's fingerprint is its SHA-256, 64 hex digits";
    BadTime = 422 "bad_time": "choose a time within the bounds that `detail` names";
    TooManyBans = 409 "too_many_bans": "remove some, or raise `bans.max_entries`";
    TracesOff = 404 "traces_off": "set `trace.enable`, and restart";
    NoSuchTrace = 404 "no_such_trace": "`mqgate trace list` shows those that run";
    NoSuchFile = 404 "no_such_file": "the trace's file may have been deleted";
    TraceExists = 409 "trace_exists": "choose another name, or stop the trace first";
    TooManyTraces = 409 "too_many_traces": "stop one with `mqgate trace stop`";
    TraceFile = 500 "trace_file": "look at the folder of the traces";
    BadTarget = 422 "bad_target": "say whose trace: client id, fingerprint, address or topic";
    BadSize = 422 "bad_size": "choose a size within the bounds that `detail` names";
    NoSuchBridge = 404 "no_such_bridge": "`mqgate bridge list` shows those there are";

    // Plugins.
    NoSuchPlugin = 404 "no_such_plugin": "`mqgate plugin list` shows those there are";
    PluginRequired = 409 "plugin_required": "swap it, or unload it with `force` (`--force`)";
    BadConfig = 400 "bad_config": "the plugin's configuration has to be JSON";
    BadGrant = 400 "bad_grant": "name capabilities that `detail` lists";
    BadPosition = 400 "bad_position": "`first`, `last`, `before:NAME` or `after:NAME`";
    BadReauthorize = 400 "bad_reauthorize": "`none`, `lazy` or `eager`";
    BadUpload = 400 "bad_upload": "the upload broke off: send it again";
    PluginVerify = 422 "plugin_verify": "the digest or signature is not the expected one";
    PluginInspect = 422 "plugin_inspect": "the file is no component that a hook could use; `detail` says why";
    PluginCompile = 422 "plugin_compile": "the component does not compile; `detail` says why";
    PluginLink = 422 "plugin_link": "it needs what it is not granted; `detail` names it";
    PluginStore = 503 "plugin_store": "look at the disk of `node.data_dir`";
    NoShadow = 404 "no_shadow": "`mqgate plugin shadow begin` gives the plugin one";
    NoRecording = 404 "no_recording": "`mqgate plugin record` begins one";
    NoComponent = 400 "no_component": "upload the component first, or name one that is there";
    BadSignature = 400 "bad_signature": "the signature cannot be read; `detail` says why";
    PluginTrial = 422 "plugin_trial": "it failed its trial before it was put in; `detail` says how";

    // Tokens and events.
    NoSuchToken = 404 "no_such_token": "`mqgate admin token list` shows those there are";
    BadScope = 422 "bad_scope": "name roles and scopes of `docs/api.md`";
    TooManyTokens = 409 "too_many_tokens": "revoke one, or raise `admin.max_tokens`";
    MoreThanOwn = 403 "more_than_own": "nobody gives a token more rights than the own ones";
    BadEventId = 400 "bad_event_id": "send the `id` of an event of this stream, or none";
    TooManyWatchers = 503 "too_many_watchers": "end a stream, or raise `events.max_streams`";
}

impl Code {
    /// The code with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == word)
    }

    /// The one status that goes with it.
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.number()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// The registry's rules have words of their own: each is a code here.
    #[test]
    fn every_word_of_the_registrys_is_a_code() {
        let rules = include_str!("../../../../identity/src/registry/rules/error.rs");
        let words =
            rules.split("pub const fn code(&self)").nth(1).and_then(|rest| rest.split("pub const fn").next());
        let words: Vec<&str> = words.expect("the function").split('"').skip(1).step_by(2).collect();
        assert!(words.len() > 30, "{words:?}");
        for word in words {
            assert!(Code::from_word(word).is_some(), "{word} is no code");
        }
    }

    #[test]
    fn words_are_unique_and_statuses_are_those_of_problems() {
        let words: HashSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(words.len(), Code::ALL.len());
        for code in Code::ALL {
            assert_eq!(code.status().as_u16(), code.number(), "{code:?}");
            assert!(code.status().is_client_error() || code.status().is_server_error(), "{code:?}");
            let word = code.as_str();
            assert!(word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{word}");
            assert_eq!(Code::from_word(word), Some(*code));
            assert!(!code.next_step().is_empty() && !code.next_step().contains('|'), "{word}");
        }
    }
}
