# Shoal's agent in an image that Yocto builds, from the released archives: nothing is compiled. A sketch to start from; its
# do_install is tried by this project's tests, and was run by bitbake in Poky 5.0 (docs/boards.md).
SUMMARY = "Runs signed WebAssembly containers on this device"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/Apache-2.0;md5=89aea4e17d99a7cacdbeed46a0096b10"

# The folder with SHA256SUMS, install.sh and the archives of one release, and the SHA-256 of the SHA256SUMS whose signature you
# have verified (docs/install.md). With them nothing else has to be pinned here.
SHOAL_RELEASE ?= "${TOPDIR}/../shoal-release"
SHOAL_SUMS ?= ""

COMPATIBLE_HOST = "(x86_64|aarch64).*-linux"
# Nothing is compiled: no compiler has to be built first.
INHIBIT_DEFAULT_DEPS = "1"
inherit systemd
SYSTEMD_SERVICE:${PN} = "shoal-guard.service shoal-agent.service"
# Enrolled first: shoal-agent.service waits for its identity by itself.
SYSTEMD_AUTO_ENABLE:${PN} = "enable"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    sh ${SHOAL_RELEASE}/install.sh --sums ${SHOAL_SUMS} --destdir ${D} --machine ${TARGET_ARCH}
}

# Built elsewhere, with a loader and libraries of its own below /usr/lib/shoal.
INHIBIT_PACKAGE_STRIP = "1"
INHIBIT_SYSROOT_STRIP = "1"
EXCLUDE_FROM_SHLIBS = "1"
INSANE_SKIP:${PN} += "already-stripped ldflags file-rdeps libdir dev-so arch"
FILES:${PN} += "/usr/lib/shoal /usr/lib/systemd /usr/lib/sysusers.d /usr/lib/tmpfiles.d"
CONFFILES:${PN} += "/etc/shoal/policy.toml /etc/default/shoal-agent"
