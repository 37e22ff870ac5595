//! Policies with limits.

use std::fmt::Write as _;

/// An identity of the cgroup `/NAME` that may do everything, within `limits`.
pub(crate) fn identity(name: &str, limits: &str) -> String {
    let mut text = String::new();
    write!(
        text,
        "[roles.{name}]\n\
         [[roles.{name}.egress]]\nzones = [\"any\"]\n\
         [[roles.{name}.ingress]]\nzones = [\"any\"]\n\
         [roles.{name}.limits]\n{limits}\n"
    )
    .expect("a string grows");
    text + &bare(name)
}

/// An identity of the cgroup `/NAME` with the role of its name, which is somewhere else.
pub(crate) fn bare(name: &str) -> String {
    format!(
        "[identities.{name}]\nclass = \"agent\"\nowner = \"o@example.com\"\n\
         purpose = \"test\"\nenvironment = \"test\"\nroles = [\"{name}\"]\n\
         match = [{{ cgroup = \"/{name}\" }}]\n"
    )
}
