//! Route netlink, as much of it as is needed (rtnetlink(7)).
