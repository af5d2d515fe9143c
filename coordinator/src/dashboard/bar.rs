//! A bar of a job set's states, and its numbers in words.

use crate::queue::view::{Counts, State};
use crate::report::number::thousands;
use maud::{Markup, html};

/// The order in which a bar stacks states; what is left empty is ready or blocked.
const STACKED: [State; 4] = [State::Done, State::Running, State::Failed, State::Cancelled];

/// A bar whose parts are the shares of the states. A part that is not empty is at least visible.
pub fn bar(counts: &Counts) -> Markup {
    html! {
        div.bar role="img" aria-label=(words(counts)) title=(words(counts)) {
            @for state in STACKED {
                @if counts.of(state) > 0 { i.(state.as_str()) style={ "flex:" (counts.of(state)) } {} }
            }
            @if counts.ready + counts.blocked > 0 { i.ready style={ "flex:" (counts.ready + counts.blocked) } {} }
        }
    }
}

/// For example `120 of 160 done, 2 running, 35 ready, 3 failed`.
pub fn words(counts: &Counts) -> String {
    let mut words = format!("{} of {} done", thousands(counts.done), thousands(counts.total()));
    for state in [State::Running, State::Ready, State::Blocked, State::Failed, State::Cancelled] {
        if counts.of(state) > 0 {
            words += &format!(", {} {state}", thousands(counts.of(state)));
        }
    }
    words
}

/// The same as [`words`], each number beside the colour of its state.
pub fn legend(counts: &Counts) -> Markup {
    html! {
        ul.legend {
            @for state in [State::Done, State::Running, State::Ready, State::Blocked, State::Failed, State::Cancelled] {
                @if counts.of(state) > 0 || state == State::Done {
                    li { i.dot.(state.as_str()) {} b { (thousands(counts.of(state))) } " " (state) }
                }
            }
        }
    }
}
