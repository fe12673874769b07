//! tidemill-kafka
