//! The names behind the numbers of an event, for each generation that may still be heard of.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use agentguard_common::{identity::AgentId, policy::NO_RULE};

use crate::policy::compiled::{Class, Compiled, CompiledIdentity, Mode, RuleSource};

/// Generations whose names are kept: events in the ring may be older than the one in force.
const KEPT_GENERATIONS: usize = 4;

/// An identity as an audit record tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Its name, or `#N` for a number that no kept generation names.
    pub name: String,
    /// Its class.
    pub class: Class,
    /// Who answers for it.
    pub owner: Option<String>,
    /// What it is for.
    pub purpose: Option<String>,
    /// Where it runs.
    pub environment: Option<String>,
    /// Names of its roles.
    pub roles: Vec<String>,
    /// Whether denials take effect; `None` if it is not known.
    pub mode: Option<Mode>,
}

impl From<&CompiledIdentity> for Actor {
    fn from(identity: &CompiledIdentity) -> Self {
        Self {
            name: identity.name.clone(),
            class: identity.class,
            owner: identity.owner.clone(),
            purpose: identity.purpose.clone(),
            environment: identity.environment.clone(),
            roles: identity.roles.clone(),
            mode: Some(identity.mode),
        }
    }
}

impl Actor {
    fn nameless(id: AgentId) -> Self {
        Self {
            name: format!("#{}", id.0),
            class: Class::Unknown,
            owner: None,
            purpose: None,
            environment: None,
            roles: Vec::new(),
            mode: None,
        }
    }
}

/// The names of one generation.
#[derive(Clone, Debug, Default)]
pub struct Names {
    actors: HashMap<AgentId, Arc<Actor>>,
    rules: Vec<Arc<RuleSource>>,
}

impl Names {
    /// Of `compiled`, whose identities got `ids`, in the same order.
    #[must_use]
    pub fn new(compiled: &Compiled, ids: &[AgentId]) -> Self {
        let actors = ids
            .iter()
            .zip(&compiled.identities)
            .map(|(id, identity)| {
                // A variant is the same actor with other rules.
                let base = identity
                    .variant_of
                    .and_then(|base| compiled.identities.get(base));
                (*id, Arc::new(Actor::from(base.unwrap_or(identity))))
            })
            .collect();
        let rules = compiled.rule_sources.iter().cloned().map(Arc::new);
        Self {
            actors,
            rules: rules.collect(),
        }
    }
}

/// The names of the last generations.
#[derive(Debug, Default)]
pub struct Directory(VecDeque<(u64, Names)>);

impl Directory {
    /// Adds a generation and forgets the oldest beyond four.
    pub fn learn(&mut self, generation: u64, names: Names) {
        self.0.retain(|(known, _)| *known != generation);
        self.0.push_front((generation, names));
        self.0.truncate(KEPT_GENERATIONS);
    }

    /// Who `id` is in `generation`, or in the newest generation that knows it: a number means the
    /// same name throughout a boot.
    #[must_use]
    pub fn actor(&self, generation: u64, id: AgentId) -> Arc<Actor> {
        self.names(generation)
            .into_iter()
            .chain(self.0.iter().map(|(_, names)| names))
            .find_map(|names| names.actors.get(&id))
            .map_or_else(|| Arc::new(Actor::nameless(id)), Arc::clone)
    }

    /// The rule with number `rule`. Numbers are only valid in their own generation.
    #[must_use]
    pub fn rule(&self, generation: u64, rule: u32) -> Option<Arc<RuleSource>> {
        if rule == NO_RULE {
            return None;
        }
        let index = usize::try_from(rule).ok()? - 1;
        self.names(generation)?.rules.get(index).cloned()
    }

    fn names(&self, generation: u64) -> Option<&Names> {
        self.0
            .iter()
            .find(|(known, _)| *known == generation)
            .map(|(_, names)| names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::compiled::Location;

    fn names(actor: &str, rule: &str) -> Names {
        let actor = Actor {
            name: actor.into(),
            ..Actor::nameless(AgentId(3))
        };
        let rule = RuleSource {
            name: rule.into(),
            location: Location {
                file: "a.toml".into(),
                line: 1,
                column: 1,
            },
        };
        Names {
            actors: HashMap::from([(AgentId(3), Arc::new(actor))]),
            rules: vec![Arc::new(rule)],
        }
    }

    #[test]
    fn names_are_those_of_the_generation_that_judged() {
        let mut directory = Directory::default();
        directory.learn(7, names("old", "r.egress[0]"));
        directory.learn(8, names("new", "r.egress[1]"));
        assert_eq!(directory.actor(7, AgentId(3)).name, "old");
        assert_eq!(directory.actor(8, AgentId(3)).name, "new");
        assert_eq!(directory.rule(7, 1).unwrap().name, "r.egress[0]");
        assert_eq!(directory.rule(8, 1).unwrap().name, "r.egress[1]");
        assert_eq!(directory.rule(8, NO_RULE), None);
        assert_eq!(directory.rule(8, 2), None);
    }

    #[test]
    fn a_forgotten_generation_has_actors_but_no_rules() {
        let mut directory = Directory::default();
        for generation in 1..=5 {
            directory.learn(generation, names("sync", "r.egress[0]"));
        }
        assert_eq!(directory.rule(1, 1), None);
        assert_eq!(directory.actor(1, AgentId(3)).name, "sync");
        assert_eq!(directory.actor(1, AgentId(9)).name, "#9");
    }
}
