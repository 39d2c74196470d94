import unittest

from fares import change, fare


class Fares(unittest.TestCase):
    def test_a_trip_costs_base_and_stops(self):
        self.assertEqual(fare(2), 400)

    def test_children_pay_half(self):
        self.assertEqual(fare(2, child=True), 200)

    def test_change_is_given_in_full(self):
        self.assertEqual(change(500, 2), [100])
        self.assertEqual(change(1000, 2), [200, 200, 200])


if __name__ == "__main__":
    unittest.main()
