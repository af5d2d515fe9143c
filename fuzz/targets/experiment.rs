//! Experiment files: any text is read to a plan or to findings, each with a place in the text, and never to a panic.
#![no_main]

use coordinator::spec::Opened;
use coordinator::spec::files::Digests;
use coordinator::spec::known::Known;
use coordinator::spec::model::HubCache;
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|text: &str| {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../experiments");
    let opened = Opened::read(Path::new("experiment.yaml"), text, &base);
    let loaded = opened.plan(&HubCache::at(&base), &Known::default(), &mut Digests::new(false));
    assert_eq!(loaded.plan.is_some(), loaded.diagnostics.is_empty(), "a plan or a finding");
    let _ = loaded.diagnostics.render(false);
    if let Some(plan) = loaded.plan {
        assert!(plan.jobs() > 0, "a plan without a job");
    }
});
