//! OpenTelemetry: batches of log records over OTLP, as HTTP with protobuf or as gRPC.
//!
//! A record is a log record whose body is its line, a JSON string. With it go the time, the severity of
//! OCSF as OpenTelemetry counts it, the type of the event as its name, and the attributes
//! `log.record.uid` and `agentguard.sequence`. The resource is `service.name` = `agentguard` and
//! `host.name`.
//!
//! An answer of success acknowledges the batch. Records that a collector rejects in a partial success
//! are refused for good: it does not say which, and asks not to get them again. Then an error tells in
//! the collector's words, with the whole batch done.

mod message;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{BufMut as _, Bytes, BytesMut};
use hyper::{
    HeaderMap,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, TE},
};
use prost::Message as _;
use serde::Deserialize;

use super::{
    Progress, Record, SinkError,
    http::{self, Answer, Client, Url, Version},
    secret::SecretPlace,
    tls::TlsSettings,
};
use message::{LogsAnswer, LogsRequest};

const HTTP_PATH: &str = "/v1/logs";
const GRPC_PATH: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// A flag, which says that a message is not compressed, and its length.
const FRAME_HEAD_BYTES: usize = 5;

/// The codes of gRPC, from 0.
const GRPC_CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The table of an OpenTelemetry collector.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct OtlpSettings {
    /// Where the collector is, without `/v1/logs`: `https://otel.example.com:4318`, or port 4317 for
    /// gRPC.
    pub url: Url,
    /// What it speaks.
    #[serde(default)]
    pub protocol: OtlpProtocol,
    /// The bearer token, if the collector wants one.
    pub token: Option<SecretPlace>,
    /// TLS, where the host's own authorities do not do.
    pub tls: Option<TlsSettings>,
}

/// How OTLP is carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OtlpProtocol {
    /// HTTP/1.1 with protobuf.
    #[default]
    Http,
    /// gRPC over HTTP/2.
    Grpc,
}

/// Sends records to an OpenTelemetry collector.
#[derive(Debug)]
pub struct Otlp {
    settings: OtlpSettings,
    client: Client,
}

impl Otlp {
    /// One that connects when there is something to deliver.
    #[must_use]
    pub fn new(settings: OtlpSettings) -> Self {
        let version = match settings.protocol {
            OtlpProtocol::Http => Version::One,
            OtlpProtocol::Grpc => Version::Two,
        };
        let client = Client::new(settings.url.clone(), settings.tls.clone(), version);
        Self { settings, client }
    }

    /// Sends `records` in one request, and returns once the collector has them.
    ///
    /// # Errors
    ///
    /// If the collector is not there or does not take them; and, with all of them done, if it rejected
    /// some for good.
    pub async fn deliver(
        &mut self,
        records: &[Record],
        progress: &mut Progress,
    ) -> Result<(), SinkError> {
        if records.is_empty() {
            return Ok(());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let request = LogsRequest::new(records, now.unwrap_or_default());
        let said = match self.settings.protocol {
            OtlpProtocol::Http => self.send_http(&request).await?,
            OtlpProtocol::Grpc => {
                let result = self.send_grpc(&request).await;
                if result.is_err() {
                    // A failed call of gRPC is a success of HTTP.
                    self.client.disconnect();
                }
                result?
            }
        };
        let (rejected, message) = said.rejected();
        progress.done = records.len();
        progress.refused = rejected.min(records.len());
        if progress.refused == 0 {
            return Ok(());
        }
        Err(self.client.refusal(&format!(
            "that it rejected {} of {} records: {message}",
            progress.refused,
            records.len()
        )))
    }

    /// Ends the connection, within a few seconds.
    pub async fn close(&mut self) {
        self.client.close().await;
    }

    async fn send_http(&mut self, request: &LogsRequest) -> Result<LogsAnswer, SinkError> {
        let headers = self.headers("application/x-protobuf")?;
        let body = request.encode_to_vec().into();
        let answer = self.client.post(HTTP_PATH, headers, body).await?;
        if !answer.status.is_success() {
            return Err(self.client.refused(&answer));
        }
        self.read(&answer.body)
    }

    async fn send_grpc(&mut self, request: &LogsRequest) -> Result<LogsAnswer, SinkError> {
        let mut headers = self.headers("application/grpc")?;
        headers.insert(TE, HeaderValue::from_static("trailers"));
        let answer = self.client.post(GRPC_PATH, headers, frame(request)).await?;
        if !answer.status.is_success() {
            return Err(self.client.refused(&answer));
        }
        match status(&answer) {
            Some((0, _)) => {}
            Some((code, message)) => {
                let name = usize::try_from(code).ok();
                let name = name.and_then(|code| GRPC_CODES.get(code));
                let name = name.map_or_else(|| format!("code {code}"), |name| (*name).to_owned());
                return Err(self.client.refusal(&format!("{name}: {message}")));
            }
            None => return Err(self.client.refusal("no `grpc-status`: it is no gRPC")),
        }
        match unframe(&answer.body) {
            Some(message) => self.read(message),
            None => Err(self.client.refusal("something that is no message of gRPC")),
        }
    }

    fn headers(&self, content_type: &'static str) -> Result<HeaderMap, SinkError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(place) = &self.settings.token {
            headers.insert(AUTHORIZATION, http::authorization("Bearer", place)?);
        }
        Ok(headers)
    }

    fn read(&self, message: &[u8]) -> Result<LogsAnswer, SinkError> {
        LogsAnswer::decode(message).map_err(|error| {
            self.client
                .refusal(&format!("success, but something that is no OTLP: {error}"))
        })
    }
}

fn frame(request: &LogsRequest) -> Bytes {
    let length = request.encoded_len();
    let mut body = BytesMut::with_capacity(FRAME_HEAD_BYTES + length);
    body.put_u8(0);
    // Batches are far below 4 GiB.
    body.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    body.put_slice(&request.encode_to_vec());
    body.freeze()
}

/// The one message of an answer.
fn unframe(body: &[u8]) -> Option<&[u8]> {
    let (head, message) = body.split_at_checked(FRAME_HEAD_BYTES)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    let is_whole = head[0] == 0 && usize::try_from(length) == Ok(message.len());
    is_whole.then_some(message)
}

/// The code and the message of a call: in the trailers, or in the head where there is nothing else.
fn status(answer: &Answer) -> Option<(u32, String)> {
    let field = |name: &HeaderName| {
        let value = answer.trailers.get(name);
        value.or_else(|| answer.headers.get(name))
    };
    let code = field(&GRPC_STATUS)?.to_str().ok()?.parse().ok()?;
    let message = field(&GRPC_MESSAGE).map_or_else(String::new, |value| {
        String::from_utf8_lossy(&percent_decode(value.as_bytes())).into_owned()
    });
    Some((code, message))
}

fn percent_decode(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| byte == b'%');
        let hex = hex.and_then(|hex| str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                rest = &after[2..];
            }
            None => {
                decoded.push(byte);
                rest = after;
            }
        }
    }
    decoded
}

/// Unix time in nanoseconds.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_framed() {
        let request = LogsRequest::new(&[], Duration::ZERO);
        let framed = frame(&request);
        assert_eq!(unframe(&framed), Some(&request.encode_to_vec()[..]));
        for (body, message) in [
            (&b"\0\0\0\0\0"[..], Some(&b""[..])),
            (b"\0\0\0\0\x02ab", Some(b"ab")),
            (b"\x01\0\0\0\x02ab", None),
            (b"\0\0\0\0\x03ab", None),
            (b"\0\0\0\0\x01ab", None),
            (b"\0\xff\xff\xff\xff", None),
            (b"\0\0", None),
            (b"", None),
        ] {
            assert_eq!(unframe(body), message, "{body:?}");
        }
    }

    #[test]
    fn messages_of_statuses_are_decoded() {
        for (text, wanted) in [
            ("plain", "plain"),
            ("caf%C3%A9 100%25", "caf\u{e9} 100%"),
            ("%", "%"),
            ("%4", "%4"),
            ("%zz%41", "%zzA"),
            ("%%34", "%4"),
        ] {
            let decoded = percent_decode(text.as_bytes());
            assert_eq!(String::from_utf8(decoded).unwrap(), wanted, "{text}");
        }
    }
}
