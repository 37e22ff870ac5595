//! The part of OCSF 1.8.0 that agentguard writes, as types. Absent is left out, never null.

use serde::Serialize;

/// An event of any of our classes.
#[derive(Debug, Default, Serialize)]
pub(super) struct Event {
    #[serde(flatten)]
    pub(super) class: Classification,
    pub(super) time: i64,
    #[serde(flatten)]
    pub(super) severity: Severity,
    pub(super) message: String,
    pub(super) metadata: Metadata,
    pub(super) device: Device,
    #[serde(flatten)]
    pub(super) status: Status,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(super) action: Option<Action>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) start_time: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) end_time: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) duration: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) actor: Option<Actor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) src_endpoint: Option<Endpoint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) dst_endpoint: Option<Endpoint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) connection_info: Option<ConnectionInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) traffic: Option<Traffic>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) firewall_rule: Option<FirewallRule>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) policy: Option<Policy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) entity: Option<Entity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) app: Option<Product>,
    pub(super) unmapped: Unmapped,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Classification {
    pub(super) class_uid: u32,
    pub(super) class_name: &'static str,
    pub(super) category_uid: u32,
    pub(super) category_name: &'static str,
    pub(super) activity_id: u32,
    pub(super) activity_name: &'static str,
    pub(super) type_uid: u32,
    pub(super) type_name: String,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Severity {
    pub(super) severity_id: u32,
    pub(super) severity: &'static str,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Status {
    pub(super) status_id: u32,
    pub(super) status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status_code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status_detail: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Action {
    pub(super) action_id: u32,
    pub(super) action: &'static str,
    pub(super) disposition_id: u32,
    pub(super) disposition: &'static str,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Metadata {
    pub(super) version: &'static str,
    pub(super) product: Product,
    pub(super) profiles: [&'static str; 3],
    pub(super) uid: String,
    pub(super) sequence: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_truncated: bool,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Product {
    pub(super) name: &'static str,
    pub(super) vendor_name: &'static str,
    pub(super) version: String,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Device {
    pub(super) type_id: u32,
    #[serde(rename = "type")]
    pub(super) type_name: &'static str,
    pub(super) hostname: String,
    pub(super) boot_uid: String,
    pub(super) os: Os,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Os {
    pub(super) name: &'static str,
    pub(super) type_id: u32,
    #[serde(rename = "type")]
    pub(super) type_name: &'static str,
}

#[derive(Debug, Serialize)]
pub(super) struct Actor {
    pub(super) app_name: String,
    pub(super) app_uid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) process: Option<Process>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<User>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) session: Option<Session>,
}

/// One run of a unit or container.
#[derive(Debug, Serialize)]
pub(super) struct Session {
    pub(super) uid: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) file: Option<File>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) container: Option<Container>,
}

#[derive(Debug, Serialize)]
pub(super) struct Container {
    pub(super) uid: String,
    pub(super) runtime: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) image: Option<Image>,
}

/// An image; it has to have an id, and the name that its maker gave it is all that is known.
#[derive(Debug, Serialize)]
pub(super) struct Image {
    pub(super) uid: String,
}

#[derive(Debug, Serialize)]
pub(super) struct File {
    pub(super) name: String,
    pub(super) path: String,
    pub(super) type_id: u32,
    #[serde(rename = "type")]
    pub(super) type_name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hashes: Option<[Fingerprint; 1]>,
}

#[derive(Debug, Serialize)]
pub(super) struct Fingerprint {
    pub(super) algorithm_id: u32,
    pub(super) algorithm: &'static str,
    pub(super) value: String,
}

#[derive(Debug, Serialize)]
pub(super) struct User {
    pub(super) uid: String,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Endpoint {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hostname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ip: Option<std::net::IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) port: Option<u16>,
}

#[derive(Debug, Serialize)]
pub(super) struct ConnectionInfo {
    pub(super) uid: String,
    pub(super) direction_id: u32,
    pub(super) direction: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) protocol_num: Option<u16>,
    pub(super) protocol_name: &'static str,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<ProtocolVersion>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(super) boundary: Option<Boundary>,
}

#[derive(Debug, Serialize)]
pub(super) struct ProtocolVersion {
    pub(super) protocol_ver_id: u32,
    pub(super) protocol_ver: &'static str,
}

#[derive(Debug, Serialize)]
pub(super) struct Boundary {
    pub(super) boundary_id: u32,
    pub(super) boundary: &'static str,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Traffic {
    pub(super) bytes_out: u64,
    pub(super) bytes_in: u64,
    pub(super) packets_out: u64,
    pub(super) packets_in: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct FirewallRule {
    pub(super) name: String,
    pub(super) uid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) desc: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Policy {
    pub(super) name: &'static str,
    pub(super) version: String,
    pub(super) is_applied: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct Entity {
    pub(super) name: std::borrow::Cow<'static, str>,
    pub(super) type_id: u32,
    #[serde(rename = "type")]
    pub(super) type_name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<String>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Unmapped {
    pub(super) agentguard: Linked,
}

/// What only we have, and the line before.
#[derive(Debug, Default, Serialize)]
pub(super) struct Linked {
    #[serde(flatten)]
    pub(super) own: Option<Own>,
    /// The hash of the line before this one.
    pub(super) previous: String,
}

impl From<Own> for Unmapped {
    fn from(own: Own) -> Self {
        Self {
            agentguard: Linked {
                own: Some(own),
                previous: String::new(),
            },
        }
    }
}

/// What OCSF has no place for.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Own {
    Connection(Box<OwnConnection>),
    Policy { identities: usize, rules: usize },
    Rejected { errors: usize },
    Launch(Box<OwnLaunch>),
    Lost { place: &'static str, total: u64 },
    Fill(OwnFill),
    Checkpoint { checkpoint: OwnCheckpoint },
    Removed { removed: OwnRemoved },
    Limit(Box<OwnLimit>),
}

#[derive(Debug, Serialize)]
pub(super) struct OwnLimit {
    pub(super) class: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) owner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) verdict: Option<&'static str>,
    pub(super) limit: &'static str,
    pub(super) configured: String,
    pub(super) per: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) used_percent: Option<u8>,
    pub(super) generation: u64,
}

/// How full the history is of what some sink does not have yet.
#[derive(Debug, Serialize)]
pub(super) struct OwnFill {
    pub(super) percent: u8,
    pub(super) bytes: u64,
    pub(super) most_bytes: u64,
}

/// Which records retention let go.
#[derive(Debug, Serialize)]
pub(super) struct OwnRemoved {
    pub(super) first: u64,
    pub(super) last: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct OwnCheckpoint {
    pub(super) key: String,
    pub(super) next_key: String,
    pub(super) signature: String,
}

#[derive(Debug, Serialize)]
pub(super) struct OwnLaunch {
    pub(super) user: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) login_user: Option<u32>,
    pub(super) pid: u32,
    pub(super) comm: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cgroup: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct OwnConnection {
    pub(super) class: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) owner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) purpose: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) environment: Option<String>,
    pub(super) roles: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mode: Option<&'static str>,
    pub(super) verdict: &'static str,
    pub(super) reason: &'static str,
    pub(super) hook: &'static str,
    pub(super) generation: u64,
    pub(super) cpu: u16,
    pub(super) cpu_sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rule_source: Option<String>,
    pub(super) cgroup_id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cgroup: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unit: Option<String>,
    /// What made it this identity.
    pub(super) by: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) script: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) login_uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) session_id: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) ancestors: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) unmet: Vec<OwnUnmet>,
    /// Text: most JSON readers lose digits of a number this large.
    pub(super) socket_cookie: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) socket_type: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) socket_protocol: Option<u16>,
}

/// Conditions that did not hold, of an identity that it would be rather, or of a rule.
#[derive(Debug, Serialize)]
pub(super) struct OwnUnmet {
    pub(super) of: String,
    pub(super) conditions: String,
}
