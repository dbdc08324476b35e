//! Tests against a server that does as it is told.
