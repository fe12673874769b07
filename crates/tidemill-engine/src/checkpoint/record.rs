//! One record of the checkpoint: a header line with version, nonce and checksum, then the body as JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Kind, Result};

/// The version of every record this build writes and reads.
pub const VERSION: u32 = 1;

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Header {
    tidemill: String,
    version: u32,
    nonce: String,
    crc32c: u32,
    bytes: usize,
}

/// A record read back.
#[derive(Debug)]
pub struct Record<T> {
    /// The body.
    pub body: T,
    /// Random, tells our own record from another's (X1).
    pub nonce: String,
    /// SHA-256 of the body's bytes, in hexadecimal.
    pub hash: String,
}

/// Encodes a record of a kind (`app`, `epoch`, `plan`, `commit`, `snapshot`); returns its bytes and the body's hash.
///
/// # Errors
/// Where the body can't be written as JSON: a bug.
pub fn encode<T: Serialize>(kind: &str, nonce: &str, body: &T) -> Result<(Vec<u8>, String)> {
    let text =
        serde_json::to_vec(body).map_err(|error| Error::with_source(Kind::Bug, format!("encode {kind}"), error))?;
    let header = Header {
        tidemill: kind.to_owned(),
        version: VERSION,
        nonce: nonce.to_owned(),
        crc32c: crc32c(&text),
        bytes: text.len(),
    };
    let mut bytes =
        serde_json::to_vec(&header).map_err(|error| Error::with_source(Kind::Bug, format!("encode {kind}"), error))?;
    bytes.push(b'\n');
    bytes.extend_from_slice(&text);
    bytes.push(b'\n');
    Ok((bytes, hash(&text)))
}

/// Decodes a record and checks all of it.
///
/// # Errors
/// `Config` where the record is damaged, of another kind or of a later version; names `path`.
pub fn decode<T: DeserializeOwned>(kind: &str, path: &str, bytes: &[u8]) -> Result<Record<T>> {
    let damaged = |what: &str| {
        Error::new(
            Kind::Config,
            format!(
                "checkpoint record {path} is damaged: {what}. Restore the checkpoint from a copy; nothing was changed"
            ),
        )
    };
    let end = bytes
        .iter()
        .position(|byte| *byte == b'\n')
        .ok_or_else(|| damaged("no header line"))?;
    let header: Header = serde_json::from_slice(&bytes[..end]).map_err(|_| damaged("the header can't be read"))?;
    if header.version > VERSION {
        return Err(Error::new(
            Kind::Config,
            format!(
                "checkpoint record {path} has version {}, this build reads up to {VERSION}",
                header.version
            ),
        ));
    }
    if header.tidemill != kind {
        return Err(damaged(&format!(
            "it is a record of kind {}, not {kind}",
            header.tidemill
        )));
    }
    let body = bytes[end + 1..].strip_suffix(b"\n").unwrap_or(&bytes[end + 1..]);
    if body.len() != header.bytes {
        return Err(damaged(&format!("{} bytes of {}", body.len(), header.bytes)));
    }
    if crc32c(body) != header.crc32c {
        return Err(damaged("the checksum does not fit"));
    }
    let value = serde_json::from_slice(body).map_err(|error| damaged(&error.to_string()))?;
    Ok(Record {
        body: value,
        nonce: header.nonce,
        hash: hash(body),
    })
}

fn crc32c(bytes: &[u8]) -> u32 {
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
    u32::try_from(sum).expect("a 32-bit checksum fits")
}

/// SHA-256 in hexadecimal.
pub fn hash(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (bytes, hash) = encode("plan", "n", &vec![1, 2, 3]).expect("encodes");
        let back: Record<Vec<u32>> = decode("plan", "p", &bytes).expect("decodes");
        assert_eq!((back.body, back.nonce.as_str(), back.hash), (vec![1, 2, 3], "n", hash));
        let end = bytes.iter().position(|byte| *byte == b'\n').expect("header");
        for at in end + 1..bytes.len() - 1 {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(
                    decode::<Vec<u32>>("plan", "p", &damaged).is_err(),
                    "byte {at} bit {bit}"
                );
            }
        }
        for length in 0..bytes.len() - 1 {
            assert!(
                decode::<Vec<u32>>("plan", "p", &bytes[..length]).is_err(),
                "cut to {length}"
            );
        }
        assert!(decode::<Vec<u32>>("commit", "p", &bytes).is_err());
    }
}
