//! News of limits to class 4001, Network Activity: traffic that was more than allowed.

use super::{
    BLOCKED, DETECTED, FAILURE, Host, LOW, MEDIUM, NETWORK, SUCCESS, Text,
    connection::named_actor,
    limit, policy,
    schema::{Endpoint, Event, FirewallRule, Own, OwnLimit, Status, Traffic, Unmapped},
};
use crate::audit::{
    record::{LimitNews, LimitReport},
    words,
};

/// The event of `record`, but for what all events share.
pub(super) fn event(record: &LimitReport, host: &Host, text: &mut Text) -> Event {
    let name = &record.limit;
    let actor = named_actor(&name.actor, text);
    let configured = text.of(&name.configured, limit::NAME);
    let whose = &actor.app_name;
    let own = |text: &mut Text, verdict, used_percent| {
        Unmapped::from(Own::Limit(Box::new(OwnLimit {
            class: words::of_class(name.actor.class),
            owner: name
                .actor
                .owner
                .as_ref()
                .map(|owner| text.of(owner, limit::TEXT)),
            verdict,
            limit: name.kind,
            configured: configured.clone(),
            per: name.per,
            used_percent,
            generation: record.generation,
        })))
    };
    let event = match record.news {
        LimitNews::Reached {
            start,
            end,
            count,
            bytes,
            is_audit,
        } => {
            let (start, end) = (start.as_millisecond(), end.as_millisecond());
            let (severity, status, action, verdict) = if is_audit {
                (LOW, SUCCESS, DETECTED, "would-deny")
            } else {
                let status = Status {
                    status_detail: Some(format!("{} {configured}", name.kind)),
                    ..FAILURE
                };
                (MEDIUM, status, BLOCKED, "deny")
            };
            let is_out = name.kind.starts_with("egress");
            let is_of_bytes = is_out || name.kind.starts_with("ingress");
            let of_way = |is_mine: bool, value| if is_mine { value } else { 0 };
            Event {
                class: NETWORK.activity(6, "Traffic"),
                severity,
                message: format!(
                    "{whose} over its limit {} {configured}: {verdict} {count} times",
                    name.kind
                ),
                status,
                action: Some(action),
                count: Some(count),
                start_time: Some(start),
                end_time: Some(end),
                duration: Some(end - start),
                traffic: is_of_bytes.then_some(Traffic {
                    bytes_out: of_way(is_out, bytes),
                    bytes_in: of_way(!is_out, bytes),
                    packets_out: of_way(is_out, count),
                    packets_in: of_way(!is_out, count),
                }),
                unmapped: own(text, Some(verdict), None),
                ..Event::default()
            }
        }
        LimitNews::Used { percent, bytes, .. } => Event {
            class: NETWORK.activity(6, "Traffic"),
            severity: if percent < 100 { LOW } else { MEDIUM },
            message: format!("{whose} has used {percent} % of {} {configured}", name.kind),
            status: SUCCESS,
            action: Some(DETECTED),
            traffic: Some(if name.kind.starts_with("egress") {
                Traffic {
                    bytes_out: bytes,
                    ..Traffic::default()
                }
            } else {
                Traffic {
                    bytes_in: bytes,
                    ..Traffic::default()
                }
            }),
            unmapped: own(text, None, Some(percent)),
            ..Event::default()
        },
    };
    // The class wants an end: of many flows only this one is the same.
    let here = Some(Endpoint {
        hostname: Some(text.of(&host.hostname, limit::HOST)),
        ..Endpoint::default()
    });
    let (src_endpoint, dst_endpoint) = if name.kind.starts_with("ingress") {
        (None, here)
    } else {
        (here, None)
    };
    Event {
        actor: Some(actor),
        src_endpoint,
        dst_endpoint,
        firewall_rule: name.rule.as_ref().map(|rule| FirewallRule {
            name: text.of(&rule.name, limit::NAME),
            uid: text.of(&rule.name, limit::NAME),
            desc: None,
        }),
        policy: Some(policy(record.generation)),
        ..event
    }
}
