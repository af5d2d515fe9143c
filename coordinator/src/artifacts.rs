//! The folder store of images and other files, by content.
