//! The program itself, as a process: what it takes on its command line, and what it lets out.

mod command_line;
mod secrecy;
