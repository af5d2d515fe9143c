//! What stands around every page: head, navigation, the live light.

use super::{Page, asset};
use crate::queue::view::moment;
use crate::report::number::thousands;
use maud::{DOCTYPE, Markup, html};

/// What the surroundings of a page show.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    /// The job table's version that the page shows.
    pub version: u64,
    /// Milliseconds since 1970 at which the page was made.
    pub now: i64,
    /// Jobs that failed for good, in all experiments.
    pub failed: u64,
}

impl Frame {
    /// For pages that could not look into the job table.
    pub fn bare() -> Self {
        Self { version: 0, now: moment::now(), failed: 0 }
    }

    /// The whole page around `body`.
    pub fn render(&self, title: &str, body: &Markup) -> Page {
        Page(html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (title) " · BrainDiVE" }
                    link rel="icon" href="data:,";
                    link rel="stylesheet" href=(asset::STYLE.path());
                    script src=(asset::LIVE.path()) defer {}
                }
                body {
                    header.top {
                        a.brand href="/" { "BrainDiVE" }
                        nav {
                            a href="/" { "Overview" }
                            a href="/workers" { "Workers" }
                            a href="/failures" {
                                "Failures"
                                @if self.failed > 0 { span.badge { (thousands(self.failed)) } }
                            }
                        }
                        span.live id="live" title="Whether this page follows the job table" { "live" }
                    }
                    main data-version=(self.version) data-now=(self.now) { (body) }
                }
            }
        })
    }
}

/// How long ago something was; the browser keeps it going.
pub fn ago(at: i64, now: i64) -> Markup {
    html! { time data-at=(at) title={ (moment::utc(at)) " UTC" } { (moment::duration(now - at)) " ago" } }
}
