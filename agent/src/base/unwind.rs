//! What the standard library would unwind the stack with, for a program that aborts on panic.
//!
//! The static agent has neither tables for unwinding nor names of functions: a panic says what and where, and of its frames
//! nothing could be shown. With this the code that would read such tables stays out of it, which would be a tenth of it.
//!
//! Names and meanings are those of the Itanium C++ ABI, level I.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};

/// `_URC_END_OF_STACK`
const END_OF_STACK: c_int = 5;

/// Shows no frame at all.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Backtrace(_trace: *const c_void, _argument: *mut c_void) -> c_int {
    END_OF_STACK
}

macro_rules! nobody_calls {
    ($($name:ident)*) => {
        $(
            #[unsafe(no_mangle)]
            extern "C" fn $name() -> ! {
                std::process::abort()
            }
        )*
    };
}

// They are named where a frame would be left in the midst of a panic.
nobody_calls! {
    _Unwind_GetDataRelBase
    _Unwind_GetIP
    _Unwind_GetIPInfo
    _Unwind_GetLanguageSpecificData
    _Unwind_GetRegionStart
    _Unwind_GetTextRelBase
    _Unwind_Resume
    _Unwind_SetGR
    _Unwind_SetIP
}
