//! Prompt classes of the zero-shot probe; the built-in five are those of Luo et al. 2023, supplement (prompts for CoCa).

use serde::{Deserialize, Serialize};

/// A named class of the zero-shot probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeClass {
    pub name: String,
    pub prompts: Vec<String>,
}

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
