//! The file service, tried from outside: calls go in as bytes and outcomes come out as bytes.

mod contents;
mod damage;
mod document;
mod harness;
mod keeping;
mod model;
mod names;
mod rights;
mod rules;
