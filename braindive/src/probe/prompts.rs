//! The prompts of the paper's zero-shot probe (Luo et al. 2023, supplement, section 15).

/// The paper's five classes with their prompts, in the order of its tables.
pub const PAPER: [(&str, &[&str]); 5] = [
    (
        "face",
        &[
            "A face facing the camera",
            "A photo of a face",
            "A photo of a human face",
            "A photo of faces",
            "A photo of a person's face",
            "A person looking at the camera",
            "People looking at the camera",
            "A portrait of a person",
            "A portrait photo",
        ],
    ),
    (
        "body",
        &[
            "A photo of a torso",
            "A photo of torsos",
            "A photo of limbs",
            "A photo of bodies",
            "A photo of a person",
            "A photo of people",
        ],
    ),
    (
        "scene",
        &[
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
        ],
    ),
    ("food", &["A photo of food"]),
    (
        "text",
        &[
            "A photo of words",
            "A photo of glyphs",
            "A photo of a glyph",
            "A photo of text",
            "A photo of numbers",
            "A photo of a letter",
            "A photo of letters",
            "A photo of writing",
            "A photo of text on an object",
        ],
    ),
];

/// A named class and the prompts that stand for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptClass {
    pub name: String,
    pub prompts: Vec<String>,
}

/// [`PAPER`] as owned classes.
pub fn paper_classes() -> Vec<PromptClass> {
    PAPER
        .iter()
        .map(|(name, prompts)| PromptClass {
            name: (*name).to_owned(),
            prompts: prompts.iter().map(|&prompt| prompt.to_owned()).collect(),
        })
        .collect()
}
