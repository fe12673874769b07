//! Every answer that is read whole, for the fuzz targets.

use super::response::{Body, Fields};
use super::versions::Versions;
use super::{admin, epoch_end, group, list_offsets, metadata, produce, sasl, transaction};

/// Reads `bytes` as the answer number `which`; true where it can be read.
pub(crate) fn can_be_read(which: u8, version: i16, bytes: &[u8]) -> bool {
    let body = Body {
        bytes: bytes.to_vec().into(),
        version,
        broker: "fuzz:0".to_owned(),
    };
    match which % 14 {
        0 => metadata::read(&body).is_ok(),
        1 => list_offsets::read(&body).is_ok(),
        2 => epoch_end::read(&body).is_ok(),
        3 => group::read_allowed(&body).is_ok(),
        4 => group::read_coordinator(&body).is_ok(),
        5 => group::read_commit(&body).is_ok(),
        6 => group::read_fetch(&body).is_ok(),
        7 => produce::read(&body).is_ok(),
        8 => transaction::read_init(&body).is_ok(),
        9 => transaction::read_added(&body).is_ok(),
        10 => admin::read_created(&body).is_ok(),
        11 => admin::read_settings(&body).is_ok(),
        12 => sasl::read_handshake(&body).is_ok() | sasl::read_reply(&body).is_ok(),
        _ => Versions::read(&mut Fields::new(&body.bytes, version % 2 == 0)).is_ok(),
    }
}

/// What becomes of a SCRAM challenge; true where it is answered.
pub(crate) fn challenge_is_answered(challenge: &[u8]) -> bool {
    sasl::answer_challenge(challenge).is_ok()
}
