//! The client's side of SCRAM (RFC 5802, RFC 7677): proves that the password is known without sending it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256, Sha512};

/// Fewer make the password easy to guess for whoever listens.
const ITERATIONS_MIN: u32 = 4_096;
/// More would only keep us busy.
const ITERATIONS_MAX: u32 = 1_000_000;
/// `n,,` in Base64: no channel binding.
const CHANNEL: &str = "c=biws";

/// The hash function of a mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hash {
    Sha256,
    Sha512,
}

impl Hash {
    fn digest(self, data: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => Sha256::digest(data).to_vec(),
            Self::Sha512 => Sha512::digest(data).to_vec(),
        }
    }

    fn hmac(self, key: &[u8], data: &[u8]) -> Vec<u8> {
        fn of<M: Mac + KeyInit>(key: &[u8], data: &[u8]) -> Vec<u8> {
            let mut mac = <M as KeyInit>::new_from_slice(key).expect("a key of any length will do");
            mac.update(data);
            mac.finalize().into_bytes().to_vec()
        }
        match self {
            Self::Sha256 => of::<Hmac<Sha256>>(key, data),
            Self::Sha512 => of::<Hmac<Sha512>>(key, data),
        }
    }

    /// The password, made slow to guess: PBKDF2 of one block.
    fn salted(self, password: &[u8], salt: &[u8], iterations: u32) -> Vec<u8> {
        let mut last = self.hmac(password, &[salt, &[0, 0, 0, 1]].concat());
        let mut all = last.clone();
        for _ in 1..iterations {
            last = self.hmac(password, &last);
            all.iter_mut().zip(&last).for_each(|(all, last)| *all ^= last);
        }
        all
    }
}

/// One exchange.
#[derive(Debug)]
pub(super) struct Scram {
    hash: Hash,
    nonce: String,
    bare: String,
}

impl Scram {
    pub(super) fn new(hash: Hash, user: &str, nonce: &str) -> Self {
        let user = user.replace('=', "=3D").replace(',', "=2C");
        Self {
            hash,
            nonce: nonce.to_owned(),
            bare: format!("n={user},r={nonce}"),
        }
    }

    /// The first message.
    pub(super) fn first(&self) -> String {
        format!("n,,{}", self.bare)
    }

    /// The answer to the server's challenge, and what the server must answer to it.
    pub(super) fn answer(&self, challenge: &[u8], password: &str) -> Result<(String, String), String> {
        let broken = || "its SCRAM challenge is malformed".to_owned();
        let challenge = std::str::from_utf8(challenge).map_err(|_| broken())?;
        let field = |name: &str| challenge.split(',').find_map(|part| part.strip_prefix(name));
        let nonce = field("r=").ok_or_else(broken)?;
        let salt = field("s=")
            .and_then(|salt| BASE64.decode(salt).ok())
            .ok_or_else(broken)?;
        let iterations: u32 = field("i=").and_then(|text| text.parse().ok()).ok_or_else(broken)?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err("its SCRAM challenge answers another client".to_owned());
        }
        if !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations) {
            return Err(format!(
                "its SCRAM challenge asks for {iterations} iterations; {ITERATIONS_MIN} to {ITERATIONS_MAX} are taken"
            ));
        }
        let hash = self.hash;
        let salted = hash.salted(password.as_bytes(), &salt, iterations);
        let client_key = hash.hmac(&salted, b"Client Key");
        let without_proof = format!("{CHANNEL},r={nonce}");
        let all = format!("{},{challenge},{without_proof}", self.bare);
        let signature = hash.hmac(&hash.digest(&client_key), all.as_bytes());
        let proof: Vec<u8> = client_key
            .iter()
            .zip(&signature)
            .map(|(key, signature)| key ^ signature)
            .collect();
        let server_key = hash.hmac(&salted, b"Server Key");
        let of_server = BASE64.encode(hash.hmac(&server_key, all.as_bytes()));
        Ok((
            format!("{without_proof},p={}", BASE64.encode(proof)),
            format!("v={of_server}"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_7677_comes_out() {
        let scram = Scram::new(Hash::Sha256, "user", "rOprNGfwEbeRWgbNEkqO");
        assert_eq!(scram.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let challenge = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let (answer, of_server) = scram.answer(challenge.as_bytes(), "pencil").unwrap();
        assert_eq!(
            answer,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(of_server, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn challenges_that_help_a_guesser_or_are_not_ours_are_refused() {
        let scram = Scram::new(Hash::Sha512, "a,b=c", "nonce");
        assert_eq!(scram.first(), "n,,n=a=2Cb=3Dc,r=nonce");
        for (challenge, why) in [
            ("r=noncex,s=AAAA,i=1", "asks for 1 iterations"),
            ("r=noncex,s=AAAA,i=2000000000", "asks for 2000000000 iterations"),
            ("r=nonce,s=AAAA,i=4096", "another client"),
            ("r=other,s=AAAA,i=4096", "another client"),
            ("r=noncex,s=?,i=4096", "malformed"),
            ("", "malformed"),
        ] {
            let refused = scram.answer(challenge.as_bytes(), "p").unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
