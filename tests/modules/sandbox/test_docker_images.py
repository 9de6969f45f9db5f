"""What an image's name says: two of the same content have the same one."""

from app.modules.sandbox.adapters.docker.images import image_name


class TestImageName:
    def test_is_the_same_for_the_same_packages_in_any_order(self):
        first = image_name("sha256:base", ("numpy==2.1", "pandas"))

        assert first == image_name("sha256:base", ("pandas", "numpy==2.1", "pandas"))

    def test_is_another_one_for_other_packages(self):
        assert image_name("sha256:base", ("pandas",)) != image_name("sha256:base", ("polars",))

    def test_is_another_one_when_the_base_image_is(self):
        assert image_name("sha256:base", ()) != image_name("sha256:newer", ())
