//! Images as files: PNG with metadata, 8-bit conversion, resizing.
