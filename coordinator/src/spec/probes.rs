//! Prompt classes of the zero-shot probe, as a file writes them.

use super::diagnose::Diagnostics;
use super::fields::{entries, is_name, not_a_name};
use super::node::Node;
use protocol::probe::ProbeClass;

/// The `probes` section: class name → prompts. It replaces the paper's classes; `None` where a part of it is wrong.
pub fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Vec<ProbeClass>> {
    let entries = entries(node, "`probes`", diagnostics)?;
    if entries.is_empty() {
        diagnostics
            .mistake(node.place, "`probes` names no class")
            .note("leave `probes` out for the paper's five classes");
        return None;
    }
    let mut classes = Vec::new();
    let mut complete = true;
    for (key, value) in entries {
        if !is_name(&key.name) {
            not_a_name(key.place, &key.name, "the name of a probe class", diagnostics);
            complete = false;
        }
        let what = format!("prompts of `{}`", key.name);
        let prompts = value.distinct(&what, diagnostics, |item, diagnostics| item.text("a prompt", diagnostics));
        complete &= !prompts.is_empty();
        let prompts = prompts.into_iter().map(|prompt| prompt.value).collect();
        classes.push(ProbeClass { name: key.name.clone(), prompts });
    }
    complete.then_some(classes)
}
