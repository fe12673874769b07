//! tidemill-connect

pub mod postgres;
