//! Prompt classes of the zero-shot probe; the built-in five are those of Luo et al. 2023, supplement (prompts for CoCa).

use super::diagnose::Diagnostics;
use super::fields::{entries, is_name, not_a_name};
use super::node::Node;
use protocol::job::ProbeClass;

const FACE: &[&str] = &[
    "A face facing the camera",
    "A photo of a face",
    "A photo of a human face",
    "A photo of faces",
    "A photo of a person's face",
    "A person looking at the camera",
    "People looking at the camera",
    "A portrait of a person",
    "A portrait photo",
];

const BODY: &[&str] = &[
    "A photo of a torso",
    "A photo of torsos",
    "A photo of limbs",
    "A photo of bodies",
    "A photo of a person",
    "A photo of people",
];

const SCENE: &[&str] = &[
    "A photo of a bedroom",
    "A photo of an office",
    "A photo of a hallway",
    "A photo of a doorway",
    "A photo of interior design",
    "A photo of a building",
    "A photo of a house",
    "A photo of nature",
    "A photo of landscape",
    "A landscape photo",
    "A photo of trees",
    "A photo of grass",
];

const FOOD: &[&str] = &["A photo of food"];

const TEXT: &[&str] = &[
    "A photo of words",
    "A photo of glyphs",
    "A photo of a glyph",
    "A photo of text",
    "A photo of numbers",
    "A photo of a letter",
    "A photo of letters",
    "A photo of writing",
    "A photo of text on an object",
];

/// The paper's five classes, in its order.
pub fn paper() -> Vec<ProbeClass> {
    [("face", FACE), ("body", BODY), ("scene", SCENE), ("food", FOOD), ("text", TEXT)]
        .into_iter()
        .map(|(name, prompts)| ProbeClass {
            name: name.to_owned(),
            prompts: prompts.iter().map(|&prompt| prompt.to_owned()).collect(),
        })
        .collect()
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_classes_have_the_papers_37_prompts_each_once() {
        let classes = paper();
        let counts: Vec<_> = classes.iter().map(|class| (class.name.as_str(), class.prompts.len())).collect();
        assert_eq!(counts, [("face", 9), ("body", 6), ("scene", 12), ("food", 1), ("text", 9)]);
        let mut prompts: Vec<_> = classes.into_iter().flat_map(|class| class.prompts).collect();
        prompts.sort();
        prompts.dedup();
        assert_eq!(prompts.len(), 37);
    }
}
