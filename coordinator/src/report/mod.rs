//! Tables and figures of finished work.

pub mod contact_sheet;
mod glyph;
pub mod number;
pub mod proportion;
pub mod specificity;
