//! Ports and protocols as policy writes them.

use std::ops::RangeInclusive;

use toml::de::DeTable;

use super::reader::Reader;
use crate::policy::PortMatch;

/// The list under `ports`; entries that are none are reported and left out.
pub(super) fn parse_list(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Option<Vec<PortMatch>> {
    let texts = reader.strings(table, "ports")?;
    let mut ports = Vec::with_capacity(texts.len());
    for (text, span) in texts {
        match parse(text) {
            Ok(port) => ports.push(port),
            Err(mend) => reader.error(span, format!("`{text}` is not a port"), mend),
        }
    }
    Some(ports)
}

/// `443/tcp`, `8000-8010/tcp`, `*/udp` or `icmp`; the error is the mend.
fn parse(text: &str) -> Result<PortMatch, String> {
    if text == "icmp" {
        return Ok(PortMatch::Icmp);
    }
    let Some((ports, protocol)) = text.split_once('/') else {
        return Err(mend_without_protocol(text));
    };
    match protocol {
        "tcp" => Ok(PortMatch::Tcp(parse_range(ports, protocol)?)),
        "udp" => Ok(PortMatch::Udp(parse_range(ports, protocol)?)),
        "icmp" => Err("ICMP has no ports: \"icmp\"".to_owned()),
        _ => Err(mend_protocol(ports, protocol)),
    }
}

fn parse_range(text: &str, protocol: &str) -> Result<RangeInclusive<u16>, String> {
    if text == "*" {
        return Ok(0..=u16::MAX);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (parse_number(first), parse_number(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        (Some(first), Some(last)) => Err(format!(
            "the lower port comes first: \"{last}-{first}/{protocol}\""
        )),
        _ => Err(mend_number(text, protocol)),
    }
}

/// Port 0 stands for "any free port" in the socket API and is none itself.
fn parse_number(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| plain)
}

fn mend_without_protocol(text: &str) -> String {
    match text {
        "*" => "write \"*/tcp\" or \"*/udp\"; for every protocol, leave `ports` out".to_owned(),
        "tcp" | "udp" => format!("write \"*/{text}\" for all its ports"),
        _ if parse_range(text, "tcp").is_ok() => {
            format!("say which protocol: \"{text}/tcp\" or \"{text}/udp\"")
        }
        _ if text.eq_ignore_ascii_case("icmp") || text == "icmpv6" || text == "ping" => {
            "write \"icmp\", which is ICMPv6 too".to_owned()
        }
        _ => "write \"443/tcp\", \"8000-8010/tcp\", \"*/udp\" or \"icmp\"".to_owned(),
    }
}

fn mend_protocol(ports: &str, protocol: &str) -> String {
    if ["tcp", "udp"].contains(&ports) {
        return format!("the port comes first: \"{protocol}/{ports}\"");
    }
    let lower = protocol.trim().to_ascii_lowercase();
    if ["tcp", "udp"].contains(&lower.as_str()) {
        return format!("write \"{}/{lower}\"", ports.trim());
    }
    "the protocols with ports are tcp and udp; a rule without `ports` covers every protocol"
        .to_owned()
}

fn mend_number(text: &str, protocol: &str) -> String {
    let spaceless: String = text.split_whitespace().collect();
    if spaceless != text && parse_range(&spaceless, protocol).is_ok() {
        return format!("remove the space: \"{spaceless}/{protocol}\"");
    }
    let dashed = text.replace([':', '–'], "-").replace("..", "-");
    if dashed != text && parse_range(&dashed, protocol).is_ok() {
        return format!("a range has a dash: \"{dashed}/{protocol}\"");
    }
    if text.contains(',') {
        return "write one entry for each port: [\"80/tcp\", \"443/tcp\"]".to_owned();
    }
    if text.is_empty() {
        return format!("write the port, or \"*/{protocol}\" for all of them");
    }
    if text.chars().all(|c| c.is_ascii_alphabetic()) {
        return format!("write the port as a number: \"443/{protocol}\"");
    }
    format!("a port is 1 to 65535: \"443/{protocol}\"; \"*/{protocol}\" is all of them")
}
