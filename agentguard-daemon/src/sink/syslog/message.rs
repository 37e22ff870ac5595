//! Messages of RFC 5424.

use std::io::Write as _;

use jiff::Timestamp;
use serde::Deserialize;

use crate::sink::Record;

/// The largest `sequenceId` that RFC 5424 knows; after it comes 1.
const MAX_SEQUENCE_ID: u64 = 2_147_483_647;

/// What kind of program speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Facility {
    /// 1.
    User,
    /// 3.
    Daemon,
    /// 4.
    Auth,
    /// 10.
    AuthPriv,
    /// 16, the default.
    #[default]
    Local0,
    /// 17.
    Local1,
    /// 18.
    Local2,
    /// 19.
    Local3,
    /// 20.
    Local4,
    /// 21.
    Local5,
    /// 22.
    Local6,
    /// 23.
    Local7,
}

impl Facility {
    const fn code(self) -> u8 {
        match self {
            Self::User => 1,
            Self::Daemon => 3,
            Self::Auth => 4,
            Self::AuthPriv => 10,
            Self::Local0 => 16,
            Self::Local1 => 17,
            Self::Local2 => 18,
            Self::Local3 => 19,
            Self::Local4 => 20,
            Self::Local5 => 21,
            Self::Local6 => 22,
            Self::Local7 => 23,
        }
    }
}

/// A name of a host, 1 to 255 printable ASCII characters without spaces.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Hostname(String);

impl TryFrom<String> for Hostname {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if !text.is_empty() && text.len() <= 255 && text.bytes().all(|b| b.is_ascii_graphic()) {
            Ok(Self(text))
        } else {
            Err(format!(
                "`{text}` is no name of a host, expected 1 to 255 ASCII characters without spaces"
            ))
        }
    }
}

impl Hostname {
    /// The name of this host; `-`, which stands for none, where it has no usable one.
    pub(in crate::sink) fn of_this_host() -> Self {
        nix::unistd::gethostname()
            .ok()
            .and_then(|name| name.into_string().ok())
            .and_then(|name| Self::try_from(name).ok())
            .unwrap_or_else(|| Self("-".to_owned()))
    }
}

/// Who speaks: what all messages of a sink have in common.
#[derive(Debug)]
pub(in crate::sink) struct Origin {
    facility: Facility,
    hostname: Hostname,
}

impl Origin {
    pub(in crate::sink) fn new(facility: Facility, hostname: Option<Hostname>) -> Self {
        Self {
            facility,
            hostname: hostname.unwrap_or_else(Hostname::of_this_host),
        }
    }

    /// The message that tells of `record`.
    pub(in crate::sink) fn message(&self, record: &Record) -> Vec<u8> {
        let priority = self.facility.code() * 8 + severity(record.severity);
        let time = Timestamp::from_millisecond(record.time_ms)
            .map_or_else(|_out_of_range| "-".to_owned(), |time| format!("{time:.3}"));
        let mut message = Vec::with_capacity(record.line.len() + 192);
        // Writing to a `Vec` cannot fail. No byte order mark: JSON has none.
        write!(
            message,
            "<{priority}>1 {time} {} agentguard {} ocsf [meta sequenceId=\"{}\"] {}",
            self.hostname.0,
            std::process::id(),
            sequence_id(record.sequence),
            record.line
        )
        .ok();
        message
    }
}

const fn sequence_id(sequence: u64) -> u64 {
    match sequence.checked_sub(1) {
        Some(from_zero) => from_zero % MAX_SEQUENCE_ID + 1,
        None => 1,
    }
}

/// The severity that syslog and the journal know, from that of OCSF.
pub(in crate::sink) const fn severity(ocsf: u8) -> u8 {
    match ocsf {
        // Critical.
        5 => 2,
        // Error.
        4 => 3,
        // Warning.
        3 => 4,
        // Notice.
        2 => 5,
        // Informational.
        _ => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_what_rfc_5424_says() {
        let host = Hostname::try_from("web-1".to_owned()).unwrap();
        let pid = std::process::id();
        for (facility, severity, sequence, time_ms, wanted) in [
            (
                Facility::Local0,
                1,
                1,
                1_700_000_000_123,
                "<134>1 2023-11-14T22:13:20.123Z web-1 agentguard PID ocsf [meta sequenceId=\"1\"] {}",
            ),
            (
                Facility::Local7,
                2,
                2_147_483_647,
                0,
                "<189>1 1970-01-01T00:00:00.000Z web-1 agentguard PID ocsf [meta sequenceId=\"2147483647\"] {}",
            ),
            (
                Facility::AuthPriv,
                3,
                2_147_483_648,
                -1,
                "<84>1 1969-12-31T23:59:59.999Z web-1 agentguard PID ocsf [meta sequenceId=\"1\"] {}",
            ),
            (
                Facility::Daemon,
                4,
                2,
                i64::MAX,
                "<27>1 - web-1 agentguard PID ocsf [meta sequenceId=\"2\"] {}",
            ),
            (
                Facility::User,
                5,
                u64::MAX,
                1_000,
                "<10>1 1970-01-01T00:00:01.000Z web-1 agentguard PID ocsf [meta sequenceId=\"3\"] {}",
            ),
        ] {
            let origin = Origin::new(facility, Some(host.clone()));
            let record = Record {
                sequence,
                time_ms,
                severity,
                line: "{}".to_owned(),
            };
            let message = String::from_utf8(origin.message(&record)).unwrap();
            assert_eq!(message, wanted.replace("PID", &pid.to_string()));
        }
    }

    #[test]
    fn names_of_hosts_are_one_word() {
        assert_ne!(Hostname::of_this_host().0, "");
        for text in ["", "a b", "a\n", "ü", &"x".repeat(256)] {
            let said = Hostname::try_from(text.to_owned()).unwrap_err();
            assert!(said.contains(", expected 1 to 255"), "{said}");
        }
    }
}
