# Shoal's agent in an image that Buildroot builds, from the released archives. A sketch to start from; its install step is tried
# by this project's tests, and `make shoal` was run in Buildroot 2026.02 (docs/boards.md).
SHOAL_VERSION = 0.1.0
SHOAL_SITE = $(call qstrip,$(BR2_PACKAGE_SHOAL_RELEASE))
SHOAL_SITE_METHOD = local
SHOAL_LICENSE = Apache-2.0
# Nothing is compiled: no toolchain has to be there first.
SHOAL_ADD_TOOLCHAIN_DEPENDENCY = NO

define SHOAL_INSTALL_TARGET_CMDS
	sh $(@D)/install.sh --sums $(call qstrip,$(BR2_PACKAGE_SHOAL_SUMS)) --destdir $(TARGET_DIR) --machine $(BR2_ARCH)
endef

define SHOAL_INSTALL_INIT_SYSTEMD
	mkdir -p $(TARGET_DIR)/etc/systemd/system/multi-user.target.wants
	ln -sf /usr/lib/systemd/system/shoal-guard.service $(TARGET_DIR)/etc/systemd/system/multi-user.target.wants/
	ln -sf /usr/lib/systemd/system/shoal-agent.service $(TARGET_DIR)/etc/systemd/system/multi-user.target.wants/
endef

# Before the folder of documents is emptied, as every image's is.
define SHOAL_INSTALL_INIT_SYSV
	$(INSTALL) -D -m 0755 $(TARGET_DIR)/usr/share/doc/shoal-agent/examples/init $(TARGET_DIR)/etc/init.d/S90shoal
endef

$(eval $(generic-package))
