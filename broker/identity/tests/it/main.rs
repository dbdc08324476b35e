//! Certificates made by rcgen and by the openssl command line, read and judged.

mod facts;
mod openssl;
mod paths;
mod pki;
mod registry;
