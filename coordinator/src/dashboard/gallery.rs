//! Images with what was measured on them; each links to its job.

use super::layout::ago;
use crate::queue::view::Image;
use crate::report::number::activation;
use maud::{Markup, html};
use protocol::ids::Digest;

/// Where the API serves an image.
pub fn source(digest: &Digest) -> String {
    format!("/api/v1/artifacts/{digest}")
}

/// Images that all come from one condition: seed and scores.
pub fn of_condition(images: &[Image], prefers: Option<&str>) -> Markup {
    gallery(images, prefers, |image| html! { "seed " (image.seed) })
}

/// Images of many conditions: which one, and scores.
pub fn of_many(images: &[Image], now: Option<i64>) -> Markup {
    gallery(images, None, |image| {
        html! {
            b { (image.region) } " " (image.axes)
            br;
            @match now { Some(now) => (ago(image.created_at, now)), None => { (image.subject) ", seed " (image.seed) } }
        }
    })
}

fn gallery(images: &[Image], prefers: Option<&str>, name: impl Fn(&Image) -> Markup) -> Markup {
    html! {
        ul.gallery {
            @for image in images {
                li data-key={ "image-" (image.job) } {
                    a href={ "/jobs/" (image.job) } {
                        img src=(source(&image.sha256)) alt={ (image.region) ", seed " (image.seed) } width="128" height="128"
                            loading="lazy";
                    }
                    p { (name(image)) }
                    @if let Some(class) = &image.probe_class {
                        p.scores {
                            span title="predicted activation, z-scored beta units" { (activation(image.activation)) }
                            " "
                            span.class.hit[prefers == Some(class.as_str())] title="the probe's class" { (class) }
                        }
                    }
                }
            }
        }
    }
}
