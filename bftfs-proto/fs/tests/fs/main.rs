//! The file service, tried from outside: calls go in as bytes and outcomes come out as bytes.

mod acl;
mod contents;
mod damage;
mod document;
mod harness;
mod keeping;
mod limbo;
mod locks;
mod model;
mod names;
mod ranges;
mod rights;
mod rules;
mod xattr;
