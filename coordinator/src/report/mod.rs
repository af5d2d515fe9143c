//! Tables and figures of finished work.
