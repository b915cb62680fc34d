//! SIGKILL at any moment: what was acknowledged stays, and nothing is had twice.

mod calls;
mod stand;
mod writes;
