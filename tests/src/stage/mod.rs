//! Where tests happen: a controller as a process, the lab with one machine beside it, a site with its own network.

pub mod controller;
pub mod lab;
pub mod site;
