//! The dashboard in a real browser.

use end_to_end::table::Table;
use end_to_end::{Campaign, experiment, miniature, wait_for};
use std::process::Command;

fn browser(arguments: &[&str], url: &str) -> Option<String> {
    let profile = tempfile::tempdir().ok()?;
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg("--disable-dev-shm-usage")
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(arguments)
        .arg(url)
        .output()
        .ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn the_dashboard_shows_exact_counts_and_images_of_a_finished_grid() {
    let campaign = Campaign::new();
    let sections = "grid: { subject: sim01, region: [face, food], seed: { start: 0, count: 3 } }\n\
                    sampling: { steps: 6, gamma: 14, size: 32 }\n";
    let file = campaign.write("experiment.yaml", &experiment("shown", &miniature(), sections));
    assert!(campaign.run(&["submit", file.to_str().expect("utf-8")]).status.success());
    let _coordinator = campaign.serve(&[]);
    let _worker = campaign.worker("painter");
    let table = Table::open(&campaign.database());
    wait_for("every job to be done", || {
        (table.number("SELECT count(*) FROM job WHERE state = 'done'") == 6).then_some(())
    });
    let Some(page) = browser(&["--dump-dom"], &campaign.dashboard()) else {
        eprintln!("skipped: no chromium");
        return;
    };
    assert!(page.contains("shown") && page.contains("painter"), "{page}");
    let image = table.counted()[0].image_sha256.clone();
    assert!(page.contains(&image), "the newest images are on the page");
}
