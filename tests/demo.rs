//! The demo as a newcomer starts it, on a grid that takes seconds.

use end_to_end::{Campaign, binary, repository};
use std::process::{Command, Stdio};

#[test]
fn the_demo_ends_with_a_table_and_a_contact_sheet() {
    let campaign = Campaign::new();
    let bundle = repository().join("miniature/bundle");
    let bundle = bundle.display();
    let file = campaign.write(
        "small.yaml",
        &format!(
            "name: small\ndescription: a small grid\nkind: sample\n\
             models:\n  diffusion: {bundle}/sd\n  backbone: {bundle}/clip\n  encoder: {bundle}/encoder\n  probe: {bundle}/coca\n\
             grid:\n  subject: sim01\n  region: [face, text]\n  gamma: [14, 0]\n  seed: {{ start: 0, count: 2 }}\n\
             regions:\n  face: {{ roi: face, prefers: face }}\n  text: {{ roi: text, prefers: text }}\n\
             sampling: {{ preset: default, steps: 6, size: 32 }}\n"
        ),
    );
    let folder = campaign.path("demo");
    let output = Command::new(binary("coordinator"))
        .args(["demo", "--listen", "127.0.0.1:0", "--experiment"])
        .arg(&file)
        .arg("--dir")
        .arg(&folder)
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts");
    let (text, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}\n{log}");
    assert!(text.contains("face") && text.contains("text") && text.contains("http://127.0.0.1:"), "{text}");
    let sheets = std::fs::read_dir(&folder)
        .expect("the demo's folder")
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "png"));
    assert_eq!(sheets.count(), 1, "one contact sheet in {}", folder.display());
}
