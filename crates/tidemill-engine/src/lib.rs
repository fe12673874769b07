//! tidemill-engine
