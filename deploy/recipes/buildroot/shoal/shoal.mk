# Shoal's agent in an image that Buildroot builds, from the released archives. A sketch to start from; its install step is tried
# by this project's tests, a whole Buildroot was never run on it.
SHOAL_VERSION = 0.1.0
SHOAL_SITE = $(call qstrip,$(BR2_PACKAGE_SHOAL_RELEASE))
SHOAL_SITE_METHOD = local
SHOAL_LICENSE = Apache-2.0

define SHOAL_INSTALL_TARGET_CMDS
	sh $(@D)/install.sh --sums $(call qstrip,$(BR2_PACKAGE_SHOAL_SUMS)) --destdir $(TARGET_DIR) --machine $(BR2_ARCH)
endef

define SHOAL_INSTALL_INIT_SYSTEMD
	mkdir -p $(TARGET_DIR)/etc/systemd/system/multi-user.target.wants
	ln -sf /usr/lib/systemd/system/shoal-guard.service $(TARGET_DIR)/etc/systemd/system/multi-user.target.wants/
	ln -sf /usr/lib/systemd/system/shoal-agent.service $(TARGET_DIR)/etc/systemd/system/multi-user.target.wants/
endef

$(eval $(generic-package))
