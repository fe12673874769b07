//! Rows appended to a PostgreSQL table, with the ledger in the same transaction (X20).

mod encode;
mod types;
