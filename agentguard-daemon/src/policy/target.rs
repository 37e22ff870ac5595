//! A remote end as the command line writes it: `HOST:PORT/PROTO`.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use agentguard_common::connection::{Address, Connection, Direction, Protocol};

/// An address with a protocol and its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The address.
    pub address: IpAddr,
    /// The port; 0 for ICMP.
    pub port: u16,
    /// TCP, UDP or ICMP.
    pub protocol: Protocol,
}

/// Why a text is no [`Target`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No `/PROTO`.
    #[error("`{0}` does not say which protocol: write `{0}/tcp`, `/udp` or `/icmp`")]
    NoProtocol(String),
    /// A protocol that policy does not tell apart.
    #[error("`{0}` is not a protocol: write tcp, udp or icmp")]
    Protocol(String),
    /// No port where one is needed.
    #[error("`{0}` has no port: write `{1}`")]
    NoPort(String, String),
    /// A port that is none.
    #[error("`{0}` is not a port: write a number from 0 to 65535")]
    Port(String),
    /// A port where there is none.
    #[error("ICMP has no ports: write `{0}/icmp`")]
    IcmpPort(String),
    /// A name, or nothing like an address.
    #[error(
        "`{0}` is not an address: write 192.0.2.7 or [2001:db8::7], names are not supported yet"
    )]
    Address(String),
    /// IPv6 with a port and without brackets.
    #[error("put the IPv6 address in brackets: `[{0}]:PORT`")]
    Brackets(String),
}

impl Target {
    /// A connection that a call which names it opens.
    #[must_use]
    pub fn egress(&self) -> Connection {
        Connection {
            direction: Direction::Egress,
            protocol: self.protocol,
            remote: address_of(self.address).destination(),
            remote_port: self.port,
            local_port: 0,
        }
    }

    /// A connection that it opens to a local port.
    #[must_use]
    pub fn ingress(&self, local_port: u16) -> Connection {
        Connection {
            direction: Direction::Ingress,
            remote: address_of(self.address),
            local_port,
            ..self.egress()
        }
    }
}

fn address_of(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(address) => Address::from_v4(address.octets()),
        IpAddr::V6(address) => Address(address.octets()),
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let Some((end, protocol)) = text.rsplit_once('/') else {
            return Err(TargetError::NoProtocol(text.to_owned()));
        };
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "icmp" => Protocol::Icmp,
            other => return Err(TargetError::Protocol(other.to_owned())),
        };
        let (host, port) = split_port(end)?;
        let address = host
            .parse()
            .map_err(|_error| TargetError::Address(host.to_owned()))?;
        let port = match (protocol, port) {
            (Protocol::Icmp, None) => 0,
            (Protocol::Icmp, Some(_)) => return Err(TargetError::IcmpPort(bracketed(address))),
            (Protocol::Tcp | Protocol::Udp | Protocol::Other, Some(port)) => port
                .parse()
                .map_err(|_error| TargetError::Port(port.to_owned()))?,
            (Protocol::Tcp | Protocol::Udp | Protocol::Other, None) => {
                let mended = text.replace(end, &format!("{}:443", bracketed(address)));
                return Err(TargetError::NoPort(text.to_owned(), mended));
            }
        };
        Ok(Self {
            address,
            port,
            protocol,
        })
    }
}

/// Splits `HOST:PORT`, `[HOST]:PORT` or a host alone.
fn split_port(text: &str) -> Result<(&str, Option<&str>), TargetError> {
    if let Some(inner) = text.strip_prefix('[') {
        return match inner.split_once(']') {
            Some((host, "")) => Ok((host, None)),
            Some((host, rest)) => match rest.strip_prefix(':') {
                Some(port) => Ok((host, Some(port))),
                None => Err(TargetError::Address(text.to_owned())),
            },
            None => Err(TargetError::Address(text.to_owned())),
        };
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Ok((text, None));
    }
    match text.rsplit_once(':') {
        Some((host, _)) if host.contains(':') => Err(TargetError::Brackets(host.to_owned())),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((text, None)),
    }
}

fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = bracketed(self.address);
        match self.protocol {
            Protocol::Tcp => write!(formatter, "{host}:{}/tcp", self.port),
            Protocol::Udp => write!(formatter, "{host}:{}/udp", self.port),
            Protocol::Icmp => write!(formatter, "{host}/icmp"),
            Protocol::Other => write!(formatter, "{host}/other"),
        }
    }
}

#[cfg(test)]
mod tests;
