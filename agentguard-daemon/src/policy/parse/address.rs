//! Addresses and prefixes as policy writes them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use toml::de::DeTable;

use super::reader::Reader;

/// The list under `addresses`; entries that are none are reported and left out.
pub(super) fn parse_list(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Option<Vec<IpNet>> {
    let texts = reader.strings(table, "addresses")?;
    let mut addresses = Vec::with_capacity(texts.len());
    for (text, span) in texts {
        match parse(text) {
            Ok(address) => addresses.push(address),
            Err(Refusal { message, mend }) => reader.error(span, message, mend),
        }
    }
    Some(addresses)
}

/// What is wrong with an address, and the mend.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    message: String,
    mend: String,
}

fn refuse<T>(message: impl Into<String>, mend: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal {
        message: message.into(),
        mend: mend.into(),
    })
}

/// `192.0.2.7`, `192.0.2.0/24`, `2001:db8::7` or `2001:db8::/32`.
fn parse(text: &str) -> Result<IpNet, Refusal> {
    let (address_text, length_text) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let Ok(address) = address_text.parse::<IpAddr>() else {
        return refuse(
            format!("`{text}` is not an address or prefix"),
            mend_of(text),
        );
    };
    let width = if address.is_ipv4() { 32 } else { 128 };
    let length = match length_text.map(|length| parse_length(length, width)) {
        None => width,
        Some(Some(length)) => length,
        Some(None) => return refuse_length(text, address, length_text.unwrap_or_default(), width),
    };
    if let IpAddr::V6(v6) = address
        && length >= 96
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        return refuse(
            format!("`{text}` is IPv4 in IPv6 clothes"),
            format!(
                "write it as IPv4, which holds for IPv4-mapped sockets too: {}",
                written(IpAddr::V4(v4), length - 96)
            ),
        );
    }
    let Ok(net) = IpNet::new(address, length) else {
        return refuse_length(text, address, length_text.unwrap_or_default(), width);
    };
    if net.trunc() != net {
        return refuse(
            format!("`{text}` has bits set beyond its prefix length"),
            format!(
                "write \"{}\", or \"{address}\" for the one address",
                net.trunc()
            ),
        );
    }
    Ok(net)
}

fn parse_length(text: &str, width: u8) -> Option<u8> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = text == "0" || !text.starts_with('0');
    text.parse()
        .ok()
        .filter(|&length| digits && plain && length <= width)
}

fn refuse_length<T>(text: &str, address: IpAddr, length: &str, width: u8) -> Result<T, Refusal> {
    let mend = match (address, length.parse::<Ipv4Addr>()) {
        (IpAddr::V4(_), Ok(mask)) if is_netmask(mask) => {
            let length = mask.to_bits().leading_ones();
            format!("write the netmask as a length: \"{address}/{length}\"")
        }
        _ => format!("a length is 0 to {width} here: \"{address}/{width}\" is the one address"),
    };
    refuse(format!("`{text}` has no valid prefix length"), mend)
}

fn is_netmask(mask: Ipv4Addr) -> bool {
    mask.to_bits().leading_ones() + mask.to_bits().trailing_zeros() >= 32
}

fn written(address: IpAddr, length: u8) -> String {
    match IpNet::new(address, length) {
        Ok(net) if length < 32 => format!("\"{}\"", net.trunc()),
        _ => format!("\"{address}\""),
    }
}

/// What somebody may have meant who wrote `text`.
fn mend_of(text: &str) -> String {
    let trimmed = text.trim();
    if trimmed != text && parse(trimmed).is_ok() {
        return format!("remove the space: \"{trimmed}\"");
    }
    if text.contains("://") {
        return "write addresses only: scheme and path are not judged".to_owned();
    }
    if let Ok(socket) = text.parse::<std::net::SocketAddr>() {
        return format!(
            "write \"{}\" here and \"{}/tcp\" in `ports`",
            socket.ip(),
            socket.port()
        );
    }
    if let Some(inner) = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        && inner.parse::<Ipv6Addr>().is_ok()
    {
        return format!("write it without brackets: \"{inner}\"");
    }
    if let Some((address, _)) = text.split_once('%') {
        return format!("write it without the interface: \"{address}\"");
    }
    if let Some((first, last)) = text.split_once('-')
        && first.trim().parse::<IpAddr>().is_ok()
        && last.trim().parse::<IpAddr>().is_ok()
    {
        return "a range is written as prefixes: \"192.0.2.0/24\"".to_owned();
    }
    if text.contains('*') {
        return "a wildcard is written as a prefix: \"192.0.2.0/24\"; the zone `any` is every \
                address"
            .to_owned();
    }
    if let Some(octets) = without_leading_zeros(text) {
        return format!("write it without leading zeros: \"{octets}\"");
    }
    let named = text.chars().any(|c| c.is_ascii_alphabetic()) && !text.contains(':');
    if named && !text.contains('/') {
        return "names are not supported yet: write the addresses that it has".to_owned();
    }
    "write \"192.0.2.7\", \"192.0.2.0/24\", \"2001:db8::7\" or \"2001:db8::/32\"".to_owned()
}

fn without_leading_zeros(text: &str) -> Option<Ipv4Addr> {
    let octets: Vec<u8> = text
        .split('.')
        .map(|octet| octet.parse().ok())
        .collect::<Option<_>>()?;
    <[u8; 4]>::try_from(octets).ok().map(Ipv4Addr::from)
}
