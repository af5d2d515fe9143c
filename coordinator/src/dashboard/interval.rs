//! Shares with their 95 % intervals on one axis from 0 to 100 %, with chance marked.

use crate::report::number::{interval, percent};
use crate::report::proportion::Proportion;
use maud::{Markup, html};

const WIDTH: f64 = 200.0;
const HEIGHT: f64 = 22.0;

/// One line per share: guided above, unguided below. `chance` is the share that a blind guess would have.
pub fn chart(guided: Option<Proportion>, unguided: Option<Proportion>, chance: Option<f64>) -> Markup {
    let label = format!(
        "guided {} ({}), unguided {} ({})",
        percent(guided),
        interval(guided),
        percent(unguided),
        interval(unguided)
    );
    let lines = [("guided", guided), ("unguided", unguided)];
    let drawn = lines.iter().filter(|(_, share)| share.is_some()).count();
    html! {
        svg.interval viewBox={ "-4 0 " (WIDTH + 8.0) " " (HEIGHT) } width=(WIDTH + 8.0) height=(HEIGHT) role="img" aria-label=(label) {
            title { (label) }
            line.axis x1="0" x2=(WIDTH) y1=(HEIGHT - 1.0) y2=(HEIGHT - 1.0) {}
            @for tick in [0.0, 0.5, 1.0] {
                line.axis x1=(tick * WIDTH) x2=(tick * WIDTH) y1=(HEIGHT - 4.0) y2=(HEIGHT) {}
            }
            @if let Some(chance) = chance { line.chance x1=(chance * WIDTH) x2=(chance * WIDTH) y1="0" y2=(HEIGHT) {} }
            @for (place, (name, share)) in lines.iter().filter_map(|(name, share)| share.map(|s| (name, s))).enumerate() {
                @let y = (place as f64 + 1.0) * (HEIGHT - 3.0) / (drawn as f64 + 1.0);
                @let (low, high) = share.interval();
                g.(name) {
                    line x1=(format!("{:.1}", low * WIDTH)) x2=(format!("{:.1}", high * WIDTH)) y1=(y) y2=(y) {}
                    circle cx=(format!("{:.1}", share.share() * WIDTH)) cy=(y) r="3.5" {}
                }
            }
        }
    }
}
