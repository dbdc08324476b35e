//! SPIFFE IDs: `spiffe://trust-domain/path`, by the rules of the SPIFFE-ID specification, sections 2.1 to 2.3. Nothing is
//! decoded, lowered or repaired: what breaks a rule is no SPIFFE ID.

use std::fmt;

/// SPIFFE-ID, 2.3: longer ones need not be taken.
pub const LONGEST_ID: usize = 2048;
const LONGEST_TRUST_DOMAIN: usize = 255;
const SCHEME: &str = "spiffe";

/// A SPIFFE ID whose path, if any, is whole segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpiffeId<'u> {
    pub trust_domain: &'u str,
    /// With the slash in front; empty where there is none.
    path: &'u str,
}

/// The rule that a URI breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdError {
    TooLong(usize),
    Scheme,
    NoTrustDomain,
    /// Not one of `a` to `z`, `0` to `9`, `.`, `-`, `_`; `:`, `@` and `%` have no place in it either.
    TrustDomain(char),
    TrustDomainTooLong,
    EmptySegment,
    /// `.` or `..`.
    RelativeSegment,
    /// Not one of `a` to `z`, `A` to `Z`, `0` to `9`, `.`, `-`, `_`: so no query, fragment, or percent-encoding.
    Path(char),
}

/// Whether a URI claims to be a SPIFFE ID, well-formed or not. Schemes are compared without case: `SPIFFE://…` is a
/// malformed claim and not something else.
pub fn is_claimed(uri: &str) -> bool {
    uri.split_once(':').is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case(SCHEME))
}

impl<'u> SpiffeId<'u> {
    pub fn parse(uri: &'u str) -> Result<Self, IdError> {
        if uri.len() > LONGEST_ID {
            return Err(IdError::TooLong(uri.len()));
        }
        let rest = uri.strip_prefix("spiffe://").ok_or(IdError::Scheme)?;
        let (trust_domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        trust_domain_name(trust_domain)?;
        if !path.is_empty() {
            for segment in path[1..].split('/') {
                match segment {
                    "" => return Err(IdError::EmptySegment),
                    "." | ".." => return Err(IdError::RelativeSegment),
                    segment => {
                        if let Some(other) = segment.chars().find(|c| !is_segment_char(*c)) {
                            return Err(IdError::Path(other));
                        }
                    }
                }
            }
        }
        Ok(Self { trust_domain, path })
    }

    /// The path's segments; none where there is no path.
    pub fn segments(&self) -> impl Iterator<Item = &'u str> + use<'u> {
        self.path.split('/').skip(1)
    }
}

/// Of a path's segment, and so of every value that is taken from one.
pub fn is_segment_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')
}

pub fn trust_domain_name(name: &str) -> Result<(), IdError> {
    if name.is_empty() {
        return Err(IdError::NoTrustDomain);
    }
    if let Some(other) = name.chars().find(|c| !is_segment_char(*c) || c.is_ascii_uppercase()) {
        return Err(IdError::TrustDomain(other));
    }
    if name.len() > LONGEST_TRUST_DOMAIN {
        return Err(IdError::TrustDomainTooLong);
    }
    Ok(())
}

impl fmt::Display for IdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(length) => write!(f, "has {length} bytes, more than {LONGEST_ID}"),
            Self::Scheme => f.write_str("does not begin with spiffe://"),
            Self::NoTrustDomain => f.write_str("has no trust domain"),
            Self::TrustDomain(c) => write!(f, "has {c:?} in its trust domain"),
            Self::TrustDomainTooLong => {
                write!(f, "has a trust domain of more than {LONGEST_TRUST_DOMAIN} bytes")
            }
            Self::EmptySegment => f.write_str("has an empty segment in its path"),
            Self::RelativeSegment => f.write_str("has a segment . or .. in its path"),
            Self::Path(c) => write!(f, "has {c:?} in its path"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_the_rules_is_a_spiffe_id() {
        for (uri, trust_domain, segments) in [
            ("spiffe://example.org", "example.org", &[][..]),
            ("spiffe://example.org/a/B-9_.x", "example.org", &["a", "B-9_.x"]),
            ("spiffe://1.2.3.4/...", "1.2.3.4", &["..."]),
            ("spiffe://_-./x", "_-.", &["x"]),
        ] {
            let id = SpiffeId::parse(uri).unwrap();
            assert_eq!(id.trust_domain, trust_domain);
            assert_eq!(id.segments().collect::<Vec<_>>(), segments, "{uri}");
        }
    }

    #[test]
    fn what_breaks_a_rule_is_none() {
        use IdError::*;
        for (uri, error) in [
            ("", Scheme),
            ("https://example.org/a", Scheme),
            ("SPIFFE://example.org/a", Scheme),
            ("spiffe:/example.org/a", Scheme),
            ("spiffe:///a", NoTrustDomain),
            ("spiffe://", NoTrustDomain),
            ("spiffe://Example.org/a", TrustDomain('E')),
            ("spiffe://example.org:80/a", TrustDomain(':')),
            ("spiffe://user@example.org/a", TrustDomain('@')),
            ("spiffe://ex%61mple.org/a", TrustDomain('%')),
            ("spiffe://example.org?q", TrustDomain('?')),
            ("spiffe://exämple.org/a", TrustDomain('ä')),
            ("spiffe://example.org/", EmptySegment),
            ("spiffe://example.org/a/", EmptySegment),
            ("spiffe://example.org//a", EmptySegment),
            ("spiffe://example.org/a/../b", RelativeSegment),
            ("spiffe://example.org/.", RelativeSegment),
            ("spiffe://example.org/a%2fb", Path('%')),
            ("spiffe://example.org/a?q=1", Path('?')),
            ("spiffe://example.org/a#f", Path('#')),
            ("spiffe://example.org/a+b", Path('+')),
            ("spiffe://example.org/a b", Path(' ')),
            ("spiffe://example.org/a\0", Path('\0')),
            ("spiffe://example.org/ü", Path('ü')),
        ] {
            assert_eq!(SpiffeId::parse(uri), Err(error), "{uri:?}");
        }
    }

    #[test]
    fn sizes_are_bounded() {
        let exactly = format!("spiffe://a/{}", "x".repeat(LONGEST_ID - 11));
        assert!(SpiffeId::parse(&exactly).is_ok());
        assert_eq!(SpiffeId::parse(&(exactly + "x")), Err(IdError::TooLong(LONGEST_ID + 1)));
        assert_eq!(trust_domain_name(&"a".repeat(255)), Ok(()));
        assert_eq!(trust_domain_name(&"a".repeat(256)), Err(IdError::TrustDomainTooLong));
    }

    #[test]
    fn a_malformed_claim_is_a_claim() {
        for claim in ["spiffe:", "SPIFFE://x", "spiffe://"] {
            assert!(is_claimed(claim), "{claim}");
        }
        for other in ["https://spiffe://x", "spiffe", "urn:spiffe:x", ""] {
            assert!(!is_claimed(other), "{other}");
        }
    }
}
