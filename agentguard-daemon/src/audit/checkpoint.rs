//! Signatures under the chain: from time to time a record vouches for all lines before it.
//!
//! Each checkpoint is signed by a key that the one before it named, and names the next one; then its
//! own is destroyed. Whoever gets hold of a host later can sign what comes then, and nothing of what
//! came before.

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use super::chain::{Position, to_hex};

/// Sets our messages apart from whatever else is signed with Ed25519.
const CONTEXT: &str = "agentguard-checkpoint-1";

/// A public key.
pub type PublicKey = [u8; 32];

/// What a checkpoint says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Unix time in milliseconds.
    pub time_ms: i64,
    /// The key that signed it.
    pub key: PublicKey,
    /// The key that will sign the next one.
    pub next_key: PublicKey,
    /// Over all this and the position in the chain.
    pub signature: [u8; 64],
}

/// Who signs: one secret key.
pub struct Signer(SigningKey);

impl std::fmt::Debug for Signer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Signer({})", to_hex(&self.public_key()))
    }
}

impl Signer {
    /// Of the secret key that comes of `seed`: 32 random bytes.
    #[must_use]
    pub fn new(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// What others check its signatures by.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.0.verifying_key().to_bytes()
    }

    /// A checkpoint that goes to `position`.
    #[must_use]
    pub fn sign(&self, position: Position, time_ms: i64, next_key: PublicKey) -> Checkpoint {
        let key = self.public_key();
        let message = message(position, time_ms, &key, &next_key);
        Checkpoint {
            time_ms,
            key,
            next_key,
            signature: self.0.sign(message.as_bytes()).to_bytes(),
        }
    }
}

impl Checkpoint {
    /// Whether its signature is of its key, and of nothing else than this at `position`.
    #[must_use]
    pub fn is_signed(&self, position: Position) -> bool {
        let message = message(position, self.time_ms, &self.key, &self.next_key);
        VerifyingKey::from_bytes(&self.key).is_ok_and(|key| {
            key.verify_strict(message.as_bytes(), &Signature::from_bytes(&self.signature))
                .is_ok()
        })
    }
}

fn message(position: Position, time_ms: i64, key: &PublicKey, next_key: &PublicKey) -> String {
    format!(
        "{CONTEXT}\n{}\n{}\n{time_ms}\n{}\n{}\n",
        position.sequence,
        to_hex(&position.previous),
        to_hex(key),
        to_hex(next_key),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_one_place_only() {
        let (signer, next) = (Signer::new(&[1; 32]), Signer::new(&[2; 32]));
        let position = Position::FIRST.after("a line");
        let checkpoint = signer.sign(position, 1_000, next.public_key());
        assert!(checkpoint.is_signed(position));
        assert!(!checkpoint.is_signed(position.after("another")));
        let moved = Position {
            sequence: 7,
            ..position
        };
        assert!(!checkpoint.is_signed(moved));
        for altered in [
            Checkpoint {
                time_ms: 1_001,
                ..checkpoint.clone()
            },
            Checkpoint {
                next_key: [3; 32],
                ..checkpoint.clone()
            },
            Checkpoint {
                key: next.public_key(),
                ..checkpoint
            },
        ] {
            assert!(!altered.is_signed(position), "{altered:?}");
        }
    }
}
