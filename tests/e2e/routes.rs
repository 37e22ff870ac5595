//! Every known way out, tried with and without agentguard: as root and as nobody, over IPv4 and
//! IPv6, to an allowed and to a denied destination.

mod attempt;
mod origins;
mod raw;
mod row;
mod tcp;
mod udp;
