//! What a row says: a certificate, and what is to be known of its device.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mqgate_identity::certificate::to_pem;
use serde_json::{Map, Value};

use super::cut::Format;

/// Columns of a CSV file; `attribute.NAME` besides.
const COLUMNS: [&str; 7] = ["pem", "id", "device_id", "client_id", "tenant", "tags", "state"];
const ATTRIBUTE: &str = "attribute.";
/// What an exported record says besides; it follows from the certificate, or is the registry's own.
const FOLLOWS: [&str; 25] = [
    "ca",
    "ca_id",
    "subject",
    "issuer",
    "issuer_key_id",
    "common_name",
    "organizational_units",
    "subject_alt_names",
    "serial",
    "spki_sha256",
    "not_before",
    "not_after",
    "source",
    "registered_at",
    "updated_at",
    "last_seen",
    "revision",
    "effective",
    "conditions",
    "namespace",
    "trust_domain",
    "pending_until",
    "revoked_at",
    "deleted_at",
    "verified_by",
];
/// What keeps a certificate out besides its state. An import knows neither: it comes back inactive.
const BARS: [&str; 2] = ["quarantined", "superseded"];

/// One certificate to be registered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// The device's certificate, intermediates after it.
    pub pem: String,
    /// Its SHA-256, if the row says it.
    pub id: Option<String>,
    pub device_id: Option<String>,
    pub client_id: Option<String>,
    pub tenant: Option<String>,
    pub tags: Vec<String>,
    pub attributes: BTreeMap<String, String>,
    /// As written; whoever registers it knows what is allowed.
    pub state: Option<String>,
    pub revocation_reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    #[error("it is not UTF-8")]
    NotUtf8,
    #[error("it holds a private key, which has no business here: take it out of the file")]
    PrivateKey,
    #[error("it is no JSON object: {0}")]
    Json(String),
    #[error("`{0}` is not known: a row has pem, device_id, client_id, tenant, tags, attributes and state")]
    Unknown(String),
    #[error("`{0}` must be {1}")]
    Type(&'static str, &'static str),
    #[error("there is no certificate in it: `pem` is missing or empty")]
    NoCertificate,
    #[error("`pem` is neither PEM nor the base64 of DER")]
    NotPem,
    #[error("it cannot be read as CSV: {0}")]
    Csv(String),
    #[error("it has {found} columns, and the first line has {expected}")]
    Columns { expected: usize, found: usize },
}

/// The first line of a CSV file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head(Vec<String>);

impl Head {
    /// Reads the names of the columns.
    pub fn parse(line: &[u8]) -> Result<Self, RowError> {
        let names = cells(line)?;
        let known = |name: &String| COLUMNS.contains(&name.as_str()) || name.starts_with(ATTRIBUTE);
        if let Some(unknown) = names.iter().find(|name| !known(name)) {
            return Err(RowError::Csv(format!(
                "there is no column `{unknown}`: the first line names the columns, which are {} and \
                 {ATTRIBUTE}NAME",
                COLUMNS.join(", ")
            )));
        }
        match names.iter().any(|name| name == "pem") {
            true => Ok(Self(names)),
            false => Err(RowError::Csv(String::from("the first line names no column `pem`"))),
        }
    }
}

impl Row {
    /// Reads a row of a PEM bundle or of NDJSON.
    pub fn parse(format: Format, head: Option<&Head>, bytes: &[u8]) -> Result<Self, RowError> {
        if holds_a_key(bytes) {
            return Err(RowError::PrivateKey);
        }
        match (format, head) {
            (Format::Pem, _) => {
                let pem = String::from_utf8(bytes.to_vec()).map_err(|_| RowError::NotUtf8)?;
                Ok(Self { pem, ..Self::default() })
            }
            (Format::Ndjson, _) => Self::of_json(bytes),
            (Format::Csv, Some(head)) => Self::of_csv(head, bytes),
            (Format::Csv, None) => Err(RowError::Csv(String::from("the first line names no columns"))),
        }
    }

    fn of_json(bytes: &[u8]) -> Result<Self, RowError> {
        let object: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|error| RowError::Json(error.to_string()))?;
        let mut row = Self::default();
        let (mut pem, mut is_barred) = (None, false);
        for (name, value) in object {
            match name.as_str() {
                "pem" => pem = optional("pem", value)?,
                "id" => row.id = optional("id", value)?,
                "device_id" => row.device_id = optional("device_id", value)?,
                "client_id" => row.client_id = optional("client_id", value)?,
                "tenant" => row.tenant = optional("tenant", value)?,
                "state" => row.state = optional("state", value)?,
                "revocation_reason" => row.revocation_reason = optional("revocation_reason", value)?,
                "tags" => {
                    let wrong = |_| RowError::Type("tags", "a list of texts");
                    row.tags = serde_json::from_value(value).map_err(wrong)?;
                }
                "attributes" => {
                    let wrong = |_| RowError::Type("attributes", "an object of texts");
                    row.attributes = serde_json::from_value(value).map_err(wrong)?;
                }
                name if BARS.contains(&name) => is_barred |= !value.is_null(),
                name if FOLLOWS.contains(&name) => {}
                _ => return Err(RowError::Unknown(name)),
            }
        }
        let lets_in = |state: &str| state.eq_ignore_ascii_case("ACTIVE");
        if is_barred && row.state.as_deref().is_none_or(lets_in) {
            row.state = Some(String::from("INACTIVE"));
        }
        row.pem = certificate(pem)?;
        Ok(row)
    }

    fn of_csv(head: &Head, bytes: &[u8]) -> Result<Self, RowError> {
        let cells = cells(bytes)?;
        if cells.len() != head.0.len() {
            return Err(RowError::Columns { expected: head.0.len(), found: cells.len() });
        }
        let mut row = Self::default();
        let mut pem = None;
        for (name, cell) in head.0.iter().zip(cells).filter(|(_, cell)| !cell.is_empty()) {
            match name.as_str() {
                "pem" => pem = Some(cell),
                "id" => row.id = Some(cell),
                "device_id" => row.device_id = Some(cell),
                "client_id" => row.client_id = Some(cell),
                "tenant" => row.tenant = Some(cell),
                "state" => row.state = Some(cell),
                "tags" => {
                    let tags = cell.split(';').map(str::trim).filter(|tag| !tag.is_empty());
                    row.tags = tags.map(str::to_owned).collect();
                }
                name => {
                    let name = name.strip_prefix(ATTRIBUTE).unwrap_or(name);
                    row.attributes.insert(name.to_owned(), cell);
                }
            }
        }
        row.pem = certificate(pem)?;
        Ok(row)
    }
}

/// Whether there is a private key among the certificates.
pub(super) fn holds_a_key(bytes: &[u8]) -> bool {
    const MARK: &[u8] = b"PRIVATE KEY-----";
    bytes.windows(MARK.len()).any(|window| window == MARK)
}

fn optional(name: &'static str, value: Value) -> Result<Option<String>, RowError> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        _ => Err(RowError::Type(name, "a text")),
    }
}

/// PEM, its line breaks written as `\n` or not; or the base64 of DER.
fn certificate(text: Option<String>) -> Result<String, RowError> {
    let text = text.unwrap_or_default();
    let text = text.trim();
    if text.is_empty() {
        return Err(RowError::NoCertificate);
    }
    if text.contains("-----BEGIN") {
        return Ok(text.replace("\\n", "\n"));
    }
    let compact: String = text.split_whitespace().collect();
    STANDARD.decode(compact).map(|der| to_pem(&der)).map_err(|_| RowError::NotPem)
}

fn cells(line: &[u8]) -> Result<Vec<String>, RowError> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).trim(csv::Trim::All).from_reader(line);
    let mut record = csv::StringRecord::new();
    match reader.read_record(&mut record) {
        Ok(_) => Ok(record.iter().map(str::to_owned).collect()),
        Err(error) => match error.kind() {
            csv::ErrorKind::Utf8 { .. } => Err(RowError::NotUtf8),
            _ => Err(RowError::Csv(error.to_string())),
        },
    }
}

#[cfg(test)]
mod tests {
    use mqgate_identity::certificate::certificates_from_pem;

    use super::*;
    use crate::testing::TestCa;

    fn json(text: &str) -> Result<Row, RowError> {
        Row::parse(Format::Ndjson, None, text.as_bytes())
    }

    fn csv(head: &str, line: &str) -> Result<Row, RowError> {
        Row::parse(Format::Csv, Some(&Head::parse(head.as_bytes())?), line.as_bytes())
    }

    #[test]
    fn the_same_certificate_in_every_way_of_writing_it() {
        let device = TestCa::new("ca").device("d");
        let (pem, base64) = (device.pem(), STANDARD.encode(&device.der));
        let escaped = pem.replace('\n', "\\n");
        let rows = [
            Row::parse(Format::Pem, None, pem.as_bytes()),
            json(&serde_json::json!({ "pem": pem }).to_string()),
            json(&serde_json::json!({ "pem": base64 }).to_string()),
            csv("pem", &format!("\"{pem}\"")),
            csv("pem", &base64),
            csv("device_id,pem", &format!("d,{escaped}")),
        ];
        for row in rows {
            let row = row.unwrap();
            let ders = certificates_from_pem(row.pem.as_bytes()).unwrap();
            assert!(ders.len() == 1 && ders[0] == device.der, "{row:?}");
        }
    }

    #[test]
    fn what_else_a_row_says() {
        let expected = Row {
            pem: String::from("-----BEGIN x"),
            id: None,
            device_id: Some("d".into()),
            client_id: Some("c".into()),
            tenant: Some("t".into()),
            tags: vec!["a".into(), "b".into()],
            attributes: [(String::from("site"), String::from("north"))].into(),
            state: Some("INACTIVE".into()),
            revocation_reason: None,
        };
        let text = r#"{"pem":"-----BEGIN x","device_id":"d","client_id":"c","tenant":"t","tags":["a","b"],
            "attributes":{"site":"north"},"state":"INACTIVE","subject":"CN=d","revision":7,"last_seen":null}"#;
        assert_eq!(json(text), Ok(expected.clone()));
        let head = "device_id, client_id,tenant,tags,attribute.site,state,pem";
        assert_eq!(csv(head, "d,c,t,a; b,north,INACTIVE,-----BEGIN x"), Ok(expected));
    }

    #[test]
    fn what_was_kept_out_does_not_come_in_by_an_import() {
        for (text, state) in [
            (r#"{"pem":"-----BEGIN x","state":"ACTIVE","quarantined":{"at":1,"why":"w"}}"#, "INACTIVE"),
            (r#"{"pem":"-----BEGIN x","superseded":{"by":"x"}}"#, "INACTIVE"),
            (r#"{"pem":"-----BEGIN x","state":"REVOKED","quarantined":{"at":1}}"#, "REVOKED"),
            (r#"{"pem":"-----BEGIN x","state":"ACTIVE","quarantined":null}"#, "ACTIVE"),
        ] {
            assert_eq!(json(text).unwrap().state.as_deref(), Some(state), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (row, said) in [
            (json("[]"), "no JSON object"),
            (json("{"), "no JSON object"),
            (json(r#"{"device_id":"d"}"#), "`pem` is missing"),
            (json(r#"{"pem":7}"#), "`pem` must be a text"),
            (json(r#"{"pem":"x","tags":"a"}"#), "`tags` must be a list of texts"),
            (json(r#"{"pem":"x","devce_id":"a"}"#), "`devce_id` is not known"),
            (json(r#"{"pem":"not base64!"}"#), "neither PEM nor"),
            (json(r#"{"pem":"-----BEGIN PRIVATE KEY-----"}"#), "private key"),
            (csv("pem,device_id", "x"), "it has 1 columns, and the first line has 2"),
            (csv("pem,colour", "x,y"), "there is no column `colour`"),
            (csv("device_id", "x"), "no column `pem`"),
            (csv("pem", ""), "it has 0 columns"),
            (Row::parse(Format::Csv, None, b"x"), "names no columns"),
            (Row::parse(Format::Pem, None, b"\xff"), "not UTF-8"),
        ] {
            let error = row.expect_err(said).to_string();
            assert!(error.contains(said), "{said}: {error}");
        }
    }
}
