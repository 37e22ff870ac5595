//! A webhook: batches of records as JSON arrays, POSTed; an answer of success acknowledges them.
//!
//! Each request says which records it brings, so that a receiver knows what it got twice:
//!
//! | header | value |
//! |---|---|
//! | `content-type` | `application/json` |
//! | `x-agentguard-sequence-first`, `-last` | numbers of the first and the last record |
//! | `x-agentguard-delivery` | a UUID of this attempt |
//! | `x-agentguard-signature` | `t=SECONDS,v1=HEX`, with a `signing-key` |
//! | `authorization` | `Bearer TOKEN`, with a `token` |
//!
//! `HEX` is the HMAC-SHA-256 of the Unix time in decimal, a dot, and the body; the key is the secret
//! as it stands. A receiver that compares the time with its clock refuses what somebody replays.
//!
//! Any other answer is an error: the same records are sent again later.

use std::{
    fmt::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper::{
    HeaderMap,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue},
};
use serde::Deserialize;
use sha2::Sha256;
use uuid::Uuid;

use super::{
    Progress, Record, SinkError,
    http::{self, Client, Url, Version},
    secret::{Secret, SecretPlace},
    tls::TlsSettings,
};

const SEQUENCE_FIRST: HeaderName = HeaderName::from_static("x-agentguard-sequence-first");
const SEQUENCE_LAST: HeaderName = HeaderName::from_static("x-agentguard-sequence-last");
const DELIVERY: HeaderName = HeaderName::from_static("x-agentguard-delivery");
const SIGNATURE: HeaderName = HeaderName::from_static("x-agentguard-signature");

/// The table of a webhook.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct WebhookSettings {
    /// Where to POST: the whole URL.
    pub url: Url,
    /// The key that bodies are signed with, if they are.
    pub signing_key: Option<SecretPlace>,
    /// The bearer token, if the receiver wants one.
    pub token: Option<SecretPlace>,
    /// TLS, where the host's own authorities do not do.
    pub tls: Option<TlsSettings>,
}

/// POSTs records to a webhook.
#[derive(Debug)]
pub struct Webhook {
    settings: WebhookSettings,
    client: Client,
}

impl Webhook {
    /// One that connects when there is something to deliver.
    #[must_use]
    pub fn new(settings: WebhookSettings) -> Self {
        let client = Client::new(settings.url.clone(), settings.tls.clone(), Version::One);
        Self { settings, client }
    }

    /// Sends `records` in one request, and returns once the receiver has them.
    ///
    /// # Errors
    ///
    /// If the receiver is not there, or does not answer with success.
    pub async fn deliver(
        &mut self,
        records: &[Record],
        progress: &mut Progress,
    ) -> Result<(), SinkError> {
        let (Some(first), Some(last)) = (records.first(), records.last()) else {
            return Ok(());
        };
        let body = array(records);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(SEQUENCE_FIRST, first.sequence.into());
        headers.insert(SEQUENCE_LAST, last.sequence.into());
        headers.insert(DELIVERY, ascii(&Uuid::now_v7().to_string())?);
        if let Some(place) = &self.settings.signing_key {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let seconds = now.unwrap_or_default().as_secs();
            headers.insert(
                SIGNATURE,
                ascii(&signature(&place.read()?, seconds, &body)?)?,
            );
        }
        if let Some(place) = &self.settings.token {
            headers.insert(AUTHORIZATION, http::authorization("Bearer", place)?);
        }
        let answer = self.client.post("", headers, body).await?;
        if !answer.status.is_success() {
            return Err(self.client.refused(&answer));
        }
        progress.done = records.len();
        Ok(())
    }

    /// Ends the connection, within a few seconds.
    pub async fn close(&mut self) {
        self.client.close().await;
    }
}

/// The JSON array of lines that are JSON.
fn array(records: &[Record]) -> Bytes {
    let length: usize = records.iter().map(|record| record.line.len() + 1).sum();
    let mut body = String::with_capacity(length + 1);
    for record in records {
        body.push(if body.is_empty() { '[' } else { ',' });
        body.push_str(&record.line);
    }
    body.push(']');
    body.into()
}

fn signature(key: &Secret, seconds: u64, body: &[u8]) -> Result<String, SinkError> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.reveal().as_bytes())
        .map_err(|error| SinkError::Settings(format!("nothing can be signed: {error}")))?;
    mac.update(seconds.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    let mut text = format!("t={seconds},v1=");
    for byte in mac.finalize().into_bytes() {
        // Writing to a `String` cannot fail.
        write!(text, "{byte:02x}").ok();
    }
    Ok(text)
}

fn ascii(text: &str) -> Result<HeaderValue, SinkError> {
    HeaderValue::from_str(text).map_err(|error| SinkError::Settings(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_body_is_an_array_of_lines() {
        let record = |line: &str| Record {
            sequence: 1,
            time_ms: 0,
            severity: 1,
            line: line.to_owned(),
        };
        for (lines, body) in [(&["{}"][..], "[{}]"), (&["{}", "{}"], "[{},{}]")] {
            let records: Vec<_> = lines.iter().map(|line| record(line)).collect();
            assert_eq!(array(&records), body);
        }
    }

    #[test]
    fn a_signature_covers_the_time_and_the_body() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        fs::write(&path, "k\u{e9}y").unwrap();
        let mut permissions = fs::metadata(&path).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
        fs::set_permissions(&path, permissions).unwrap();
        let key = SecretPlace::File(path).read().unwrap();
        // Computed with Python's hmac.
        assert_eq!(
            signature(&key, 1_760_000_000, b"[{},{}]").unwrap(),
            "t=1760000000,v1=f301a97e160d91da8326aa42e58025926a43a77d303179116a4631a7f875de7c"
        );
    }
}
