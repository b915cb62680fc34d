//! Where tests happen: a controller as a process, the lab with one machine beside it, a site with its own network,
//! and a guest that is nothing but the machines' kernel.

pub mod controller;
pub mod ground;
pub mod guest;
pub mod lab;
pub mod site;
