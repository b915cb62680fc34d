#!/usr/bin/env bash
# Makes the samples in this folder anew, with the tools of the formats themselves. Not part of any test: the samples are.
# Needs root (loop devices) and: e2fsprogs xfsprogs btrfs-progs dosfstools ntfs-3g exfatprogs f2fs-tools squashfs-tools
# lvm2 cryptsetup-bin bcache-tools fdisk xorriso util-linux.
# A sample is a text: `size BYTES`, then `OFFSET HEX…` for every 32 bytes that are not all zero in the given ranges.
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# sample NAME SIZE "OFFSET:LENGTH …" COMMAND…: the command's `@` is the image.
sample() {
    local name=$1 size=$2 ranges=$3 image=$work/$1 range
    shift 3
    truncate -s "$size" "$image"
    "${@//@/$image}" >/dev/null
    {
        echo "# ${*//@/IMAGE}"
        echo "size $(stat -c %s "$image")"
        for range in $ranges; do
            od -Ad -v -w32 -tx1 -j "${range%:*}" -N "${range#*:}" "$image" | grep -v -E '^[0-9]+( 00)*$' || true
        done
    } >"$name.hex"
    rm "$image"
}
on_loop() {
    local loop image=$1
    shift
    loop=$(losetup -f --show "$image")
    "${@//%/$loop}" || { losetup -d "$loop"; return 1; }
    losetup -d "$loop"
}

uuid=6ba7b810-9dad-41d1-80b4-00c04fd430c8
sample ext2 8M 1024:1024 mkfs.ext2 -q -L two -U $uuid @
sample ext3 16M 1024:1024 mkfs.ext3 -q -L three -U $uuid @
sample ext4 16M 1024:1024 mkfs.ext4 -q -L four -U $uuid @
sample ext4-label-of-16 16M 1024:1024 mkfs.ext4 -q -L 0123456789abcdef -U $uuid @
sample jbd 16M 1024:1024 mke2fs -q -O journal_dev -b 1024 -U $uuid @
sample xfs 300M 0:512 mkfs.xfs -q -L ex -m uuid=$uuid @
sample btrfs 128M 65536:4096 mkfs.btrfs -q -L butter -U $uuid @
sample vfat-12 2M 0:512 mkfs.vfat -F 12 -n TWELVE -i 1234abcd @
sample vfat-16 16M 0:512 mkfs.vfat -F 16 -n SIXTEEN -i 1234abcd @
sample vfat-32 64M "0:512 512:512" mkfs.vfat -F 32 -n THIRTYTWO -i 1234abcd @
sample ntfs 16M "0:512 16384:4096" mkntfs -q -F -Q -s 512 -p 0 -H 0 -S 0 @
sample exfat 16M 0:12288 mkfs.exfat @
sample f2fs 64M "1024:3072" mkfs.f2fs -q -l eff -U $uuid @
sample swap 1M "1024:64 4086:10" mkswap -q -U $uuid @
sample luks1 4M 0:1024 cryptsetup luksFormat -q --type luks1 --pbkdf-force-iterations 1000 --key-file /etc/os-release @
sample luks2 32M "0:8192" cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /etc/os-release @
sample luks2-second-header 32M "16384:512" cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /etc/os-release @
sample lvm2 8M "0:2048" on_loop @ pvcreate -qq -y -u $uuid --norestorefile %
sample bcache 8M "4096:512" make-bcache -q -B @
mkdir "$work/tree" && echo hello >"$work/tree/hello"
sample squashfs 0 0:4096 mksquashfs "$work/tree" @ -quiet -no-progress -noappend
sample iso9660 0 "32768:4096" xorriso -report_about FATAL -as mkisofs -V MUSTER -o @ "$work/tree"
sample iso9660-hybrid 0 "0:4096 32768:4096" xorriso -report_about FATAL -as mkisofs -V MUSTER_BER1 -partition_offset 16 -o @ "$work/tree"
sample dos 64M 0:512 sh -c 'printf "2048,20480,c,*\n,,83\n" | sfdisk -q @'
sample dos-empty 64M 0:512 sh -c 'printf "label: dos\n" | sfdisk -q @'
sample gpt 64M "0:17408 67091968:16896" sh -c 'printf "label: gpt\nstart=2048,size=20480,name=boot,type=U\nname=größe\n" | sfdisk -q @'
