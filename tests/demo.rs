//! The demo as a newcomer starts it, on a grid that takes seconds.

use end_to_end::{Campaign, binary, experiment, miniature};
use std::process::{Command, Stdio};

#[test]
fn the_demo_ends_with_a_table_and_a_contact_sheet() {
    let campaign = Campaign::new();
    let sections = "grid: { subject: sim01, region: [face, text], gamma: [14, 0], seed: { start: 0, count: 2 } }\n\
                    regions: { face: { roi: face, prefers: face }, text: { roi: text, prefers: text } }\n\
                    sampling: { steps: 6, size: 32 }\n";
    let file = campaign.write("small.yaml", &experiment("small", &miniature(), sections));
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
